"""Arrays on the wire between stages: inline while small, else by claim check through the work bucket."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.errors import BatchTooLargeError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from mypy_boto3_s3 import S3Client

    Array = npt.NDArray[Any]

DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)
"""What can travel, by numpy's names."""

_REFERENCE_BYTES = 320  # at least what a claim check takes as JSON: a bucket's name, a key, a shape


class TensorStore:
    """Writes and reads tensors.

    A tensor is `{"dtype", "shape", "data"}` with the bytes in base64, or `{"dtype", "shape", "bucket", "key"}` with
    the bytes in an S3 object. The bytes are little-endian, in C order. Objects are named by their content, so that
    writing one again changes nothing.
    """

    def __init__(self, s3: S3Client, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def dump_groups(
        self, response: dict[str, Any], groups: Sequence[tuple[list[int], Mapping[str, Array]]], member: str, limit: int
    ) -> dict[str, Any]:
        """Add `groups` to a response, as many tensors inline as keep it within `limit` bytes.

        Parameters
        ----------
        response
            What else the response holds.
        groups
            Item indices, and arrays by name with the batch as first axis.
        member
            What the arrays are called: `inputs` or `outputs`.
        limit
            Most bytes that the response may take as JSON.

        Raises
        ------
        BatchTooLargeError
            If the response is too large even with all tensors in the work bucket.
        RetryableError
            If the work bucket does not take a tensor.
        """
        skeleton = {**response, "groups": [{"indices": indices, member: dict.fromkeys(a, 0)} for indices, a in groups]}
        left = limit - len(json.dumps(skeleton)) - sum(_REFERENCE_BYTES * len(arrays) for _, arrays in groups)
        if left < 0:
            raise BatchTooLargeError(f"the batch's metadata does not fit {limit:,} bytes: set a smaller batch size")
        encoded = []
        for indices, arrays in groups:
            tensors = {}
            for name, array in arrays.items():
                inline = 4 * math.ceil(array.nbytes / 3)
                if inline <= left:
                    left -= inline
                    tensors[name] = _header(array) | {"data": base64.b64encode(to_bytes(array)).decode()}
                else:
                    tensors[name] = _header(array) | self.put(to_bytes(array))
            encoded.append({"indices": indices, member: tensors})
        return {**response, "groups": encoded}

    def load(self, tensor: Mapping[str, Any]) -> Array:
        """Read a tensor.

        Raises
        ------
        RetryableError
            If the work bucket does not give the object.
        ValueError
            If the tensor contradicts itself.
        """
        data = base64.b64decode(tensor["data"]) if "data" in tensor else self.get(tensor["bucket"], tensor["key"])
        return from_bytes(data, tensor["dtype"], tensor["shape"])

    def put(self, data: bytes) -> dict[str, str]:
        """Write bytes to the work bucket, and return the object's `bucket` and `key`.

        Raises
        ------
        RetryableError
            If the work bucket does not take the object.
        """
        key = f"tensors/{hashlib.sha256(data).hexdigest()}"
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=data)
        except (BotoCoreError, ClientError) as error:
            raise RetryableError(f"cannot write s3://{self._bucket}/{key}: {error}") from error
        return {"bucket": self._bucket, "key": key}

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object in the work bucket.

        Raises
        ------
        RetryableError
            If the work bucket does not give the object.
        """
        try:
            return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise RetryableError(f"cannot read s3://{bucket}/{key}: {error}") from error


def to_bytes(array: Array) -> bytes:
    """Return an array's elements, little-endian and in C order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="C")


def from_bytes(data: bytes, dtype: str, shape: list[int]) -> Array:
    """Return the array that `to_bytes` wrote. It is read-only.

    Raises
    ------
    ValueError
        If the type cannot travel, or type and shape ask for another number of bytes.
    """
    if dtype not in DTYPES:
        raise ValueError(f"tensor has dtype {dtype!r}, expected one of {', '.join(sorted(DTYPES))}")
    kind = np.dtype(dtype).newbyteorder("<")
    if len(data) != (expected := math.prod(shape) * kind.itemsize):
        raise ValueError(f"tensor of {dtype} {shape} has {len(data)} bytes, expected {expected}")
    return np.frombuffer(data, kind).reshape(shape)


def _header(array: Array) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}
