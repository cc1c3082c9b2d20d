"""Tensors on the wire: nothing is lost, and nothing grows over the limit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_runtime.errors import BatchTooLargeError, RetryableError
from inference_runtime.tensors import DTYPES, TensorStore, from_bytes, to_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(arrays)
def test_any_array_survives(array: np.ndarray) -> None:
    back = from_bytes(to_bytes(array), array.dtype.name, list(array.shape))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(9)[::-2]],
    ids=["big-endian", "fortran", "strided"],
)
def test_memory_layout_does_not_matter(array: np.ndarray) -> None:
    np.testing.assert_array_equal(from_bytes(to_bytes(array), array.dtype.name, list(array.shape)), array)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", [3]), ("float32", [2, 2]), ("float32", [-1, -2]), ("object", [1]), ("U1", [2])]
)
def test_a_tensor_that_contradicts_itself_fails(dtype: str, shape: list[int]) -> None:
    with pytest.raises(ValueError, match=r"tensor|reshape|dimension"):
        from_bytes(bytes(8), dtype, shape)


def exchange(store: TensorStore, groups: list[Any], limit: int) -> tuple[dict[str, Any], list[Any]]:
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


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("count", [0, 1, 700])
def test_inline_and_by_claim_check_the_same_comes_back(s3: S3Client, bucket: str, dtype: str, count: int) -> None:
    groups = [([3, 1], {"a": np.ones((2, count), dtype), "b": np.arange(2).astype(dtype)})]
    store = TensorStore(s3, bucket)
    inline, loaded = exchange(store, groups, 100_000)
    check(groups, loaded)
    assert all("data" in tensor for tensor in inline["groups"][0]["inputs"].values())
    if count == 700:
        claimed, loaded = exchange(store, groups, 1200)
        check(groups, loaded)
        assert claimed["groups"][0]["inputs"]["a"]["bucket"] == bucket


def test_equal_contents_are_stored_once(s3: S3Client, bucket: str) -> None:
    store = TensorStore(s3, bucket)
    groups = [([0], {"a": np.zeros(5000)}), ([1], {"a": np.zeros(5000)})]
    exchange(store, groups, 2000)
    exchange(store, groups, 2000)
    assert len(s3.list_objects_v2(Bucket=bucket)["Contents"]) == 1


@given(st.lists(st.integers(0, 3000), max_size=12), st.integers(6_000, 30_000))
def test_a_response_stays_within_its_limit(sizes: list[int], limit: int) -> None:
    class Bucket:
        """Takes everything: only the size of the response is looked at."""

        def put_object(self, **_: Any) -> None:
            pass

    store = TensorStore(Bucket(), "b" * 63)  # type: ignore[arg-type]
    groups = [([i], {"input": np.zeros((1, size), np.uint8)}) for i, size in enumerate(sizes)]
    response = store.dump_groups({"items": []}, groups, "inputs", limit)
    assert len(json.dumps(response)) <= limit


def test_metadata_over_the_limit_fails_so_that_the_batch_is_halved(s3: S3Client, bucket: str) -> None:
    with pytest.raises(BatchTooLargeError, match="batch size"):
        TensorStore(s3, bucket).dump_groups({"items": ["x" * 1000]}, [], "inputs", 1000)


def test_a_missing_work_bucket_fails_as_retryable(s3: S3Client) -> None:
    store = TensorStore(s3, "no-such-bucket-anywhere")
    with pytest.raises(RetryableError, match=r"^RetryableError: cannot write s3://no-such-bucket-anywhere/tensors/"):
        store.dump_groups({}, [([0], {"a": np.zeros((1, 5000))})], "inputs", 2000)
    with pytest.raises(RetryableError, match=r"cannot read s3://no-such-bucket-anywhere/k"):
        store.load({"dtype": "uint8", "shape": [1], "bucket": "no-such-bucket-anywhere", "key": "k"})
