"""Tests speak numpy: tensors, and stores of them, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.aws import BotocoreObjectStore
from inference_runtime.tensors.store import TensorStore
from inference_runtime.tensors.tensor import arrays_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from mypy_boto3_s3 import S3Client


class ArrayStore:
    """A store of tensors that takes and gives arrays."""

    def __init__(self, s3: S3Client, bucket: str) -> None:
        self._store = store(s3, bucket)

    def dump_groups(self, response: dict[str, Any], groups: Any, member: str, limit: int) -> dict[str, Any]:
        groups = [(indices, tensors_of(arrays)) for indices, arrays in groups]
        return self._store.dump_groups(response, groups, member, limit)

    def load(self, tensor: Mapping[str, Any]) -> np.ndarray:
        return self._store.load(tensor).array()


def store(s3: S3Client, bucket: str) -> TensorStore:
    return TensorStore(lambda: BotocoreObjectStore(s3), bucket)


def infer(engine: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays_of(engine.infer(tensors_of(arrays)))
