"""Handler of the function that reads the reports of jobs, and compares them with what is in the bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.retraining import layout
from inference_runtime.retraining.reports import MAX_BYTES, ReportError, build_report, training_report

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GONE = ("NoSuchKey", "404")

_s3: S3Client = client("s3")
_bucket = required("RETRAINING_BUCKET")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Return what the job of a run has reported.

    Parameters
    ----------
    event
        `{"run", "execution"}`, for the report of the training. With ``sha256``, that of the weights, it is the report
        of their build.
    context
        Unused.

    Returns
    -------
    dict
        See `training_report` and `build_report`.

    Raises
    ------
    ReportError
        There is no report of this execution, or the weights are not as long as it says.
    """
    run, execution = event["run"], event["execution"]
    if "sha256" in event:
        data = _read(layout.report(layout.BUILDS, run))
        return build_report(data, run=run, execution=execution, sha256=event["sha256"])
    said = training_report(_read(layout.report(layout.WEIGHTS, run)), run=run, execution=execution)
    size = _size(layout.weights(run, said["weights"]))
    if size != said["size"]:
        raise ReportError(f"{said['weights']} must be {said['size']} bytes, as its report says, got {size}")
    return said


def _read(key: str) -> bytes:
    try:
        body = _s3.get_object(Bucket=_bucket, Key=key)["Body"]
    except ClientError as error:
        if error_code(error) not in _GONE:
            raise
        raise ReportError(f"the job must have written {key}, got none; see its log") from error
    data = body.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ReportError(f"{key} must be at most {MAX_BYTES:,} bytes, got more")
    return data


def _size(key: str) -> int:
    try:
        return _s3.head_object(Bucket=_bucket, Key=key)["ContentLength"]
    except ClientError as error:
        if error_code(error) not in _GONE:
            raise
        raise ReportError(f"the job must have written {key}, got none; see its log") from error
