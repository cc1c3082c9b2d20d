"""What the stages want of S3: to read and to write objects as a whole."""

from __future__ import annotations

from typing import Protocol


class Objects(Protocol):
    """Reads and writes objects; thread-safe.

    There are two: `aws.BotocoreObjects` for the functions that have a client of botocore anyway, and
    `light_s3.LightObjects` for the inference function, which starts without botocore.
    """

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object.

        Raises
        ------
        RetryableError
            If S3 does not give the object; the text has S3's error code.
        """
        ...

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object.

        Raises
        ------
        RetryableError
            If S3 does not take the object; the text has S3's error code.
        """
        ...
