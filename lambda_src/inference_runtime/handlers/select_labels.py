"""Handler of the function that selects the labels of a run: all there are, in a file that the job reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.retraining import layout
from inference_runtime.retraining.label_set import LabelSet
from inference_runtime.retraining.label_table import all_labels, count

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_labels, _runs, _bucket = required("LABELS_TABLE"), required("RUNS_TABLE"), required("RETRAINING_BUCKET")
_held_out, _salt = float(required("HELD_OUT")), os.environ.get("SALT", "")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Write the labels of the table to a file, and return the run that they stand for.

    Returns
    -------
    dict
        `{"run", "labels", "accepted"}`: the id of the run, how many labels it has, and how many had been accepted
        before they were read. Labels that come meanwhile may be in the file, and count as new for the next run.
    """
    accepted = count(_dynamodb, _runs).accepted  # first: what comes meanwhile must not count as selected
    selected = LabelSet.of(all_labels(_dynamodb, _labels), held_out=_held_out, salt=_salt)
    if selected.size:
        _s3.put_object(
            Bucket=_bucket,
            Key=layout.label_set(selected.run),
            Body=selected.lines,
            ContentType="application/jsonl",
        )
    return {"run": selected.run, "labels": selected.size, "accepted": accepted}
