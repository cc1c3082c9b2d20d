"""Tensors hold what numpy's arrays do, without numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.waiting import PATIENCE

from inference_runtime.tensors.tensor import DTYPES, Tensor, concatenate, zeros

SOURCES = Path(__file__).parents[3] / "lambda_src"

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
batches = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def arrays_of_shape(shape: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[np.ndarray]:
    numbers = st.sampled_from(sorted(DTYPES)).flatmap(lambda dtype: hnp.arrays(dtype, shape))
    return numbers | hnp.arrays(object, shape, elements=st.text(max_size=4))


def same(tensor: Tensor, array: np.ndarray) -> bool:
    """Tell whether they hold the same; NaN is the same as NaN."""
    np.testing.assert_array_equal(tensor.array(), array, strict=True)
    np.testing.assert_array_equal(np.array(tensor.values(), array.dtype).reshape(array.shape), array)
    return True


@given(arrays_of_shape(shapes))
def test_any_array_survives(array: np.ndarray) -> None:
    tensor = Tensor.of(array)
    assert same(tensor, array)
    assert not tensor.array().flags.writeable
    sent = bytes(tensor.encoded())
    assert len(sent) == tensor.nbytes
    assert Tensor.decoded(tensor.dtype, list(tensor.shape), sent) == tensor


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(9)[::-2],
        np.broadcast_to(np.float16(3), (2, 2)),
    ],
    ids=["big-endian", "fortran", "strided", "broadcast"],
)
def test_memory_layout_does_not_matter(array: np.ndarray) -> None:
    np.testing.assert_array_equal(Tensor.of(array).array(), array)


def test_a_plain_array_is_not_copied() -> None:
    array = np.arange(4.0)
    seen = Tensor.of(array).array()
    assert np.shares_memory(seen, array)
    assert np.shares_memory(Tensor.of(array).rows(1, 3).array(), array)


@pytest.mark.parametrize("array", [np.array(["ab", "c"]), np.array(["ab", "c"], np.dtypes.StringDType())])
def test_all_that_numpy_knows_of_strings(array: np.ndarray) -> None:
    assert Tensor.of(array) == Tensor("string", [2], ["ab", "c"])


@given(arrays_of_shape(batches), st.data())
def test_items_are_chosen_as_numpy_does(array: np.ndarray, data: st.DataObject) -> None:
    tensor = Tensor.of(array)
    start, stop = data.draw(st.integers(-6, 6)), data.draw(st.integers(-6, 6))
    assert same(tensor.rows(start, stop), array[start:stop])
    rows = data.draw(st.lists(st.integers(0, len(array) - 1), max_size=6)) if len(array) else []
    assert same(tensor.take(rows), array[np.array(rows, int)])
    assert len(tensor) == len(array)
    with pytest.raises(IndexError):
        tensor.take([*rows, len(array)])
    parts = [tensor.rows(0, stop), tensor.rows(0, 2), tensor]
    assert same(concatenate(parts), np.concatenate([array[0:stop], array[0:2], array]))


@given(st.sampled_from([*sorted(DTYPES), "string"]), batches)
def test_zeros(dtype: str, shape: tuple[int, ...]) -> None:
    expected = np.full(shape, "", object) if dtype == "string" else np.zeros(shape, dtype)
    assert same(zeros(dtype, shape), expected)


def test_bfloat16() -> None:
    array = np.array([[1.5, -2], [0, 300]], ml_dtypes.bfloat16)
    tensor = Tensor.of(array)
    assert tensor.dtype == "bfloat16"
    assert tensor.values() == (1.5, -2, 0, 300)
    assert tensor.rows(1, 2).array().tolist() == [[0, 300]]


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("float32", [3], bytes(8)),
        ("float32", [2, 2], bytes(8)),
        ("float32", [-1, -2], bytes(8)),
        ("object", [1], bytes(8)),
        ("U1", [2], bytes(8)),
        ("string", [2], bytes(2)),
        ("string", [2], ["a"]),
        ("uint8", [2], ["a", "b"]),
    ],
)
def test_a_tensor_that_contradicts_itself_fails(dtype: str, shape: list[int], data: bytes | list[str]) -> None:
    with pytest.raises(ValueError, match=r"^tensor "):
        Tensor(dtype, shape, data)


@pytest.mark.parametrize("shape", [[-1], [2.0], [True], ["2"], [None], [2**63, 0], [10**99, 0], [-1] * 100_000])
def test_a_shape_of_anything_but_sizes_fails(shape: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"^tensor of uint8 has the shape \[.+, expected whole numbers") as raised:
        Tensor("uint8", shape, bytes(2))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("data", [b"[1]", b'{"a": 1}', b"a", b"\xff", b'["a", "b"]'])
def test_data_that_are_not_strings_fail(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^tensor |Expecting|decode"):
        Tensor.decoded("string", [1], data)


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["a", 1], object), np.zeros(1, complex), np.zeros(1, "M8[s]")]
)
def test_arrays_of_anything_else_fail(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"strings|tensor has dtype"):
        Tensor.of(array)


@pytest.mark.parametrize(
    "tensors", [(zeros("int8", [1]), zeros("uint8", [1])), (zeros("int8", [1, 2]), zeros("int8", [1, 1]))]
)
def test_concatenating_what_does_not_belong_together_fails(tensors: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="types or shapes differ"):
        concatenate(tensors)


def test_numpy_is_not_imported() -> None:
    script = (
        "import sys; from inference_runtime.tensors.store import TensorStore\n"
        "import inference_runtime.engine.confidence, inference_runtime.engine.batches\n"
        "assert not {'numpy', 'botocore', 'dataclasses'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCES)}, check=True, timeout=PATIENCE)
