"""Handler of the function that exports the rows of a window to Parquet files.

The files of a window have the same names whenever it is exported, so that another run replaces them.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.export.parts import parts_of
from inference_runtime.export.rows import RowReader
from inference_runtime.export.window import Window
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_DELETED_AT_ONCE = 1000

_bucket, _prefix = required("EXPORT_BUCKET"), required("EXPORT_PREFIX")
_hours = int(required("WINDOW_HOURS"))
_s3: S3Client = client("s3")
_dynamodb: DynamoDBClient = client("dynamodb")
_reader = RowReader(_dynamodb, table=required("RESULTS_TABLE"), index=required("STATUS_INDEX"))
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Write the rows of the last window that was over at a time.

    Parameters
    ----------
    event
        `{"time"}`, ISO 8601 with a time zone: when the schedule ran, or any later time, to export a window again.
    context
        Unused.

    Returns
    -------
    dict
        `window`, the first moment of the window and the one after its last; `folder`, and how many `files` are in it.

    Raises
    ------
    ValueError
        The time is not readable.
    """
    window = Window.before(_time(event["time"]), _hours)
    folder, files = f"{_prefix}{window.folder}", 0
    for path in parts_of(_reader.rows(window)):
        with path.open("rb") as file:
            _s3.put_object(
                Bucket=_bucket,
                Key=f"{folder}part-{files}.parquet",
                Body=file,
                ContentType="application/vnd.apache.parquet",
            )
        files += 1
    _delete_others(folder, files)
    done = {
        "window": [window.start.isoformat(), window.end.isoformat()],
        "folder": f"s3://{_bucket}/{folder}",
        "files": files,
    }
    _log.info("exported %s", done)
    return done


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"time must have a time zone, got {text}; append Z for UTC")
    return time


def _delete_others(folder: str, files: int) -> None:
    """Delete the files that an earlier export of the window wrote besides: rows may have expired since."""
    wanted = {f"{folder}part-{number}.parquet" for number in range(files)}
    left = [key for key in _listed(f"{folder}part-") if key not in wanted]
    for first in range(0, len(left), _DELETED_AT_ONCE):
        keys = [{"Key": key} for key in left[first : first + _DELETED_AT_ONCE]]
        refused = _s3.delete_objects(Bucket=_bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors")  # type: ignore[typeddict-item]
        if refused:
            raise OSError(f"cannot delete s3://{_bucket}/{refused[0]['Key']}: {refused[0]['Message']}")


def _listed(prefix: str) -> Iterator[str]:
    for page in _s3.get_paginator("list_objects_v2").paginate(Bucket=_bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            yield found["Key"]
