"""Where masks go: the work bucket, or a folder when a stage runs outside of AWS."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

_VARIABLE = "MASKS_ADDRESS"


def mask_writer() -> Callable[[bytes], str]:
    """Return the function that writes a PNG and returns its address.

    `MASKS_ADDRESS` says where to: `s3://bucket/folder`, or `file:///folder`. A mask is named by its content, so that
    writing it again changes nothing. The function raises a `RetryableError` if S3 does not take the mask.

    Raises
    ------
    StageError
        If the variable is missing, or no such address.
    """
    address = required(_VARIABLE)
    parts = urlsplit(address)
    if parts.scheme == "s3" and parts.netloc:
        return _to_bucket(client("s3"), parts.netloc, parts.path.strip("/"))
    if parts.scheme == "file" and not parts.netloc:
        return _to_folder(Path(unquote(parts.path)))
    raise StageError(f'{_VARIABLE} is "{address}", expected "s3://bucket/folder" or "file:///folder"')


def _to_bucket(s3: S3Client, bucket: str, folder: str) -> Callable[[bytes], str]:
    def write(png: bytes) -> str:
        key = f"{folder}/{_name(png)}"
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=png, ContentType="image/png")
        except (BotoCoreError, ClientError) as error:
            raise RetryableError(f"cannot write s3://{bucket}/{key}: {error}") from error
        return f"s3://{bucket}/{key}"

    return write


def _to_folder(folder: Path) -> Callable[[bytes], str]:
    def write(png: bytes) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _name(png)
        file.write_bytes(png)
        return file.as_uri()

    return write


def _name(png: bytes) -> str:
    return f"{sha256(png).hexdigest()}.png"
