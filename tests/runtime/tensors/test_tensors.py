"""Tensors on the wire: nothing is lost, and nothing grows over the limit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.arrays import ArrayStore

from inference_runtime.errors import BatchTooLargeError, RetryableError
from inference_runtime.tensors.store import TensorStore
from inference_runtime.tensors.tensor import DTYPES, zeros

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def ones(count: int, dtype: str) -> np.ndarray:
    return np.full((2, count), "é", object) if dtype == "object" else np.ones((2, count), dtype)


def exchange(store: ArrayStore, groups: list[Any], limit: int) -> tuple[dict[str, Any], list[Any]]:
    response = json.loads(json.dumps(store.dump_groups({"items": ["x"]}, groups, "inputs", limit)))
    loaded = [(g["indices"], {n: store.load(t) for n, t in g["inputs"].items()}) for g in response["groups"]]
    return response, loaded


def check(groups: list[Any], loaded: list[Any]) -> None:
    assert [indices for indices, _ in loaded] == [indices for indices, _ in groups]
    for (_, sent), (_, received) in zip(groups, loaded, strict=True):
        assert list(received) == list(sent)
        for name in sent:
            assert received[name].dtype == sent[name].dtype
            np.testing.assert_array_equal(received[name], sent[name])


@pytest.mark.parametrize("dtype", [*sorted(DTYPES), "object"])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_inline_and_by_claim_check_the_same_comes_back(s3: S3Client, bucket: str, dtype: str, count: int) -> None:
    groups = [([3, 1], {"a": ones(count, dtype), "b": ones(1, dtype)[:, 0]})]
    store = ArrayStore(s3, bucket)
    inline, loaded = exchange(store, groups, 100_000)
    check(groups, loaded)
    assert all("data" in tensor for tensor in inline["groups"][0]["inputs"].values())
    if count == 700:
        claimed, loaded = exchange(store, groups, 1200)
        check(groups, loaded)
        assert claimed["groups"][0]["inputs"]["a"]["bucket"] == bucket


def test_what_is_inline_opens_no_bucket() -> None:
    def fail() -> Any:
        raise AssertionError

    store = TensorStore(fail, "bucket")
    response = store.dump_groups({}, [([0], {"a": zeros("float32", (1, 9))})], "inputs", 1000)
    assert store.load(response["groups"][0]["inputs"]["a"]) == zeros("float32", (1, 9))


def test_equal_contents_are_stored_once(s3: S3Client, bucket: str) -> None:
    store = ArrayStore(s3, bucket)
    groups = [([0], {"a": np.zeros(5000)}), ([1], {"a": np.zeros(5000)})]
    exchange(store, groups, 2000)
    exchange(store, groups, 2000)
    assert len(s3.list_objects_v2(Bucket=bucket)["Contents"]) == 1


@given(st.lists(st.integers(0, 3000), max_size=12), st.integers(6_000, 30_000))
def test_a_response_stays_within_its_limit(sizes: list[int], limit: int) -> None:
    class Bucket:
        """Takes everything: only the size of the response is looked at."""

        def get(self, bucket: str, key: str) -> bytes:
            raise NotImplementedError

        def put(self, bucket: str, key: str, data: bytes) -> None:
            pass

    store = TensorStore(Bucket, "b" * 63)
    groups = [([i], {"input": zeros("uint8", (1, size))}) for i, size in enumerate(sizes)]
    response = store.dump_groups({"items": []}, groups, "inputs", limit)
    assert len(json.dumps(response)) <= limit


def test_metadata_over_the_limit_fails_so_that_the_batch_is_halved(s3: S3Client, bucket: str) -> None:
    with pytest.raises(BatchTooLargeError, match="batch size"):
        ArrayStore(s3, bucket).dump_groups({"items": ["x" * 1000]}, [], "inputs", 1000)


def test_a_missing_work_bucket_fails_as_retryable(s3: S3Client) -> None:
    store = ArrayStore(s3, "no-such-bucket-anywhere")
    with pytest.raises(RetryableError, match=r"^RetryableError: cannot write s3://no-such-bucket-anywhere/tensors/"):
        store.dump_groups({}, [([0], {"a": np.zeros((1, 5000))})], "inputs", 2000)
    with pytest.raises(RetryableError, match=r"cannot read s3://no-such-bucket-anywhere/k"):
        store.load({"dtype": "uint8", "shape": [1], "bucket": "no-such-bucket-anywhere", "key": "k"})


def test_a_tensor_that_was_exchanged_fails_as_retryable(s3: S3Client, bucket: str) -> None:
    store = ArrayStore(s3, bucket)
    response = store.dump_groups({}, [([0], {"a": np.zeros((1, 5000))})], "inputs", 2000)
    tensor = response["groups"][0]["inputs"]["a"]
    np.testing.assert_array_equal(store.load(tensor), np.zeros((1, 5000)))
    s3.put_object(Bucket=bucket, Key=tensor["key"], Body=np.ones((1, 5000)).tobytes())
    with pytest.raises(RetryableError, match=r"tensors/\w{64} holds other bytes than its name says"):
        store.load(tensor)
