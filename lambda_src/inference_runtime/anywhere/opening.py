"""Opens the stores that the environment names. Lambda functions name none, and use S3 and the results table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from inference_runtime.environment import required
from inference_runtime.errors import RejectItem, StageError

if TYPE_CHECKING:
    from inference_runtime.stages.item import Item
    from inference_runtime.stages.sinks import ResultSink
    from inference_runtime.stages.sources import Content, ObjectSource

SOURCE, BUCKETS, SINK = "OBJECT_STORE", "OBJECT_BUCKETS", "RESULT_SINK"
"""The variables: the store of objects, its buckets with spaces between them, and the store of rows."""


def open_source() -> ObjectSource:
    """Return the store of objects.

    `OBJECT_STORE` is ``s3``, ``gs``, ``az`` or the URL of a folder, such as ``file:///data``. Only the buckets of
    `OBJECT_BUCKETS` are read. ``none`` is for items that come with their data. Without the variable, it is S3 with
    botocore, and IAM says which buckets are read.

    Raises
    ------
    StageError
        If there is no such store.
    """
    if SOURCE not in os.environ:
        from inference_runtime.aws import client  # noqa: PLC0415 - elsewhere there is no botocore
        from inference_runtime.stages.s3_source import S3Source  # noqa: PLC0415

        return S3Source(client("s3"))
    if os.environ[SOURCE] == "none":
        return _NoObjects()
    from inference_runtime.anywhere.objects import open_objects  # noqa: PLC0415 - not in Lambda

    return open_objects(required(SOURCE), os.environ.get(BUCKETS, "").split())


def open_sink() -> ResultSink | None:
    """Return the store of rows that `RESULT_SINK` names; None for the results table.

    It is ``stdout``, ``postgres``, or ``process``, which keeps rows for the caller of the handler.

    Raises
    ------
    StageError
        If there is no such store.
    """
    name = os.environ.get(SINK, "dynamodb")
    if name == "dynamodb":
        return None
    if name == "stdout":
        from inference_runtime.anywhere.json_lines import standard_output  # noqa: PLC0415 - not in Lambda

        return standard_output()
    if name == "process":
        from inference_runtime.anywhere.collected import collected_rows  # noqa: PLC0415 - not in Lambda

        return collected_rows()
    if name == "postgres":
        from inference_runtime.anywhere.postgres import open_postgres  # noqa: PLC0415 - not in Lambda

        return open_postgres(required("RESULTS_TABLE"))
    raise StageError(f'{SINK} must be "dynamodb", "postgres", "process" or "stdout", got "{name}"')


class _NoObjects:
    """Refuses objects, where items come with their data."""

    def read(self, item: Item) -> Content:
        """Reject an object; see `sources.ObjectSource`."""
        raise RejectItem(f"there is no store of objects to read {item.location} from")
