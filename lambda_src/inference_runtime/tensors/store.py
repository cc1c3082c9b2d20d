"""Tensors on the wire between stages: inline while small, otherwise by claim check through the work bucket."""

from __future__ import annotations

import json
import math
from binascii import a2b_base64, b2a_base64

from inference_runtime.errors import BatchTooLargeError, RetryableError
from inference_runtime.tensors.tensor import Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.interfaces import ObjectStore

_REFERENCE_BYTES = 320  # at least what a claim check takes as JSON: a bucket's name, a key, a shape


class TensorStore:
    """Writes and reads tensors.

    A tensor is `{"dtype", "shape", "data"}` with the bytes in base64, or `{"dtype", "shape", "bucket", "key"}` with
    the bytes in an S3 object: those of `Tensor.encoded`. Objects are named by their content, so that writing one again
    changes nothing, and reading one notices other content.

    Parameters
    ----------
    objects
        Returns what reads and writes objects. Called when the first tensor does not travel inline: most never need it.
    bucket
        The work bucket.
    """

    def __init__(self, objects: Callable[[], ObjectStore], bucket: str) -> None:
        self._open = objects
        self._opened: ObjectStore | None = None
        self._bucket = bucket

    @property
    def _objects(self) -> ObjectStore:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def dump_groups(
        self,
        response: dict[str, Any],
        groups: Sequence[tuple[list[int], Mapping[str, Tensor]]],
        member: str,
        limit: int,
    ) -> dict[str, Any]:
        """Add `groups` to a response, as many tensors inline as keep it within `limit` bytes.

        Parameters
        ----------
        response
            The rest of the response.
        groups
            Item indices, and tensors by name with the batch as first axis.
        member
            The key of the tensors: `inputs` or `outputs`.
        limit
            Most bytes that the response may take as JSON.

        Raises
        ------
        BatchTooLargeError
            If the response is too large even with all tensors in the work bucket.
        RetryableError
            If the work bucket does not take a tensor.
        """
        left = room(response, groups, member, limit)
        if left < 0:
            raise BatchTooLargeError(f"the batch's metadata does not fit {limit:,} bytes: set a smaller batch size")
        written = []
        for indices, tensors in groups:
            entries = {}
            for name, tensor in tensors.items():
                data = tensor.encoded()
                inline = 4 * math.ceil(len(data) / 3)
                entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
                if inline <= left:
                    left -= inline
                    entries[name]["data"] = b2a_base64(data, newline=False).decode()
                else:
                    entries[name] |= self.put(bytes(data))
            written.append({"indices": indices, member: entries})
        return {**response, "groups": written}

    def load(self, tensor: Mapping[str, Any]) -> Tensor:
        """Read a tensor.

        Raises
        ------
        RetryableError
            If the work bucket does not give the object.
        ValueError
            If the tensor contradicts itself.
        """
        data = a2b_base64(tensor["data"]) if "data" in tensor else self.get(tensor["bucket"], tensor["key"])
        return Tensor.decoded(tensor["dtype"], tensor["shape"], data)

    def put(self, data: bytes) -> dict[str, str]:
        """Write bytes to the work bucket, and return the object's `bucket` and `key`.

        Raises
        ------
        RetryableError
            If the work bucket does not take the object.
        """
        key = _key(data)
        self._objects.put(self._bucket, key, data)
        return {"bucket": self._bucket, "key": key}

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object in the work bucket.

        Raises
        ------
        RetryableError
            If the work bucket does not give the object, or gives other bytes than were written: what wrote them must
            be done again.
        """
        data = self._objects.get(bucket, key)
        if (found := _key(data)) != key:
            raise RetryableError(f"s3://{bucket}/{key} holds other bytes than its name says, those of {found}")
        return data


def room(
    response: Mapping[str, Any],
    groups: Sequence[tuple[list[int], Mapping[str, Tensor]]],
    member: str,
    limit: int,
) -> int:
    """Return the bytes of a response that are left for tensors inline; negative if it is too large.

    Parameters
    ----------
    response, groups, member, limit
        As those of `TensorStore.dump_groups`.
    """
    skeleton = {**response, "groups": [{"indices": indices, member: dict.fromkeys(t, 0)} for indices, t in groups]}
    return limit - len(json.dumps(skeleton)) - sum(_REFERENCE_BYTES * len(tensors) for _, tensors in groups)


def _key(data: bytes) -> str:
    from hashlib import sha256  # noqa: PLC0415 - loads OpenSSL, which takes longer than most tensors

    return f"tensors/{sha256(data).hexdigest()}"
