"""Writes an object of any size, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from types import TracebackType

    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 * 1024**2
"""Bytes of a part; S3 takes no fewer than 5 MiB, but for the last."""


class ObjectWriter:
    """Writes an object in parts if it is large; a context manager, at whose end the object is there.

    An exception leaves no object behind, and no upload.

    Parameters
    ----------
    s3
        The client.
    bucket, key
        The object.
    part_bytes
        Bytes of a part.
    """

    def __init__(self, s3: S3Client, bucket: str, key: str, *, part_bytes: int = PART_BYTES) -> None:
        self._s3 = s3
        self._place: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._part_bytes = part_bytes
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._buffer = bytearray()
        self.size = 0

    def __enter__(self) -> ObjectWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._upload is not None:
            self._s3.abort_multipart_upload(**self._place, UploadId=self._upload)

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises
        ------
        RetryableError
            S3 does not take them.
        """
        self._buffer += data
        self.size += len(data)
        while len(self._buffer) >= self._part_bytes:
            part = bytes(self._buffer[: self._part_bytes])
            del self._buffer[: self._part_bytes]
            self._write_part(part)

    def _write_part(self, part: bytes) -> None:
        number = len(self._parts) + 1
        try:
            if self._upload is None:
                self._upload = self._s3.create_multipart_upload(**self._place)["UploadId"]
            etag = self._s3.upload_part(**self._place, UploadId=self._upload, PartNumber=number, Body=part)["ETag"]
        except (BotoCoreError, ClientError) as error:
            raise self._failed(error) from error
        self._parts.append({"PartNumber": number, "ETag": etag})

    def _finish(self) -> None:
        try:
            if self._upload is None:
                self._s3.put_object(**self._place, Body=bytes(self._buffer))
                return
            if self._buffer:
                self._write_part(bytes(self._buffer))
            parts: Any = {"Parts": self._parts}
            self._s3.complete_multipart_upload(**self._place, UploadId=self._upload, MultipartUpload=parts)
        except (BotoCoreError, ClientError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> RetryableError:
        return RetryableError(f"cannot write s3://{self._place['Bucket']}/{self._place['Key']}: {error}")
