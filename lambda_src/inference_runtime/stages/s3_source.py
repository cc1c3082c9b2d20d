"""Items in S3, by botocore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import TIMEOUTS, error_code
from inference_runtime.errors import RejectItem
from inference_runtime.stages.sources import EXPLAIN, Content, SourceTimeoutError, SupersededError, UnreadableError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from inference_runtime.stages.item import Item

_GONE = {
    "NoSuchKey": "object no longer exists",
    "NoSuchVersion": "object version no longer exists",
    "InvalidObjectState": "object is archived and cannot be read",
    "InvalidRange": "object is shorter than the item's range of bytes",
}
_OVERWRITTEN = frozenset({"PreconditionFailed", "412"})


class S3Source:
    """Objects of S3.

    Parameters
    ----------
    s3
        Thread-safe client.
    """

    def __init__(self, s3: S3Client) -> None:
        self._s3 = s3

    def read(self, item: Item) -> Content:
        """Read an object, or a part of one; see `ObjectSource`."""
        try:
            answer = self._s3.get_object(**_request(item))  # type: ignore[arg-type]
            data = answer["Body"].read()
        except TIMEOUTS as error:
            raise SourceTimeoutError(str(error)) from error
        except (BotoCoreError, ClientError) as error:
            code = error_code(error)
            if code in _OVERWRITTEN:
                raise SupersededError from error
            if code in _GONE:
                raise RejectItem(_GONE[code]) from error
            raise UnreadableError(str(error)) from error
        except MemoryError:
            raise
        except Exception as error:  # of a connection, which botocore does not always make its own
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        asked = answer.get("Metadata", {}).get(EXPLAIN) == "true"
        return Content(data if item.range is None else item.range.content(data), asked)


def _request(item: Item) -> dict[str, str]:
    """Return the arguments of the request for an object, or the part of one that the item is."""
    if item.range is not None:
        return item.range.request()
    # Only the version that the event is about: what a later one holds is for the later event.
    which = {"VersionId": item.version_id} if item.version_id else {"IfMatch": f'"{item.etag}"'}
    return {"Bucket": item.bucket, "Key": item.key, **which}
