"""Files that already hold an array: read as they are, and never trusted about their size."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.tensor import tensor_preprocessor
from inference_runtime.tensors.tensor import DTYPES, Tensor

npy = tensor_preprocessor()


def saved(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_npy(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    result = npy(saved(array), None)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_npy_in_any_layout() -> None:
    array = np.arange(6, dtype=">f8").reshape(2, 3)
    np.testing.assert_array_equal(npy(saved(array), None), array)
    np.testing.assert_array_equal(npy(saved(np.asfortranarray(array)), None), array)


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
def test_raw(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(tensor_preprocessor("raw", dtype, [2, 3])(bytes(Tensor.of(array).data), None), array)


def test_raw_of_another_length_is_rejected() -> None:
    with pytest.raises(RejectItem, match="has 7 bytes, expected 8"):
        tensor_preprocessor("raw", "float32", [2])(bytes(7), None)


def test_a_header_that_claims_terabytes_is_rejected_without_taking_them() -> None:
    data = saved(np.zeros(3)).replace(b"(3,), }" + b" " * 12, b"(3000000000000,), }")
    assert b"3000000000000" in data
    tracemalloc.start()
    try:
        with pytest.raises(RejectItem, match=r"float64 \[3000000000000\] that its header claims"):
            npy(data, None)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        saved(np.zeros(3))[:-1],
        saved(np.zeros(3)) + b"x",
        saved(np.array([object()]), allow_pickle=True),
        saved(np.array(["text"])),
        saved(np.zeros(2, complex)),
        saved(np.zeros(2, "f4,i4")),
    ],
)
def test_what_is_no_plain_array_is_rejected(data: bytes) -> None:
    with pytest.raises(RejectItem, match="npy"):
        npy(data, None)


@pytest.mark.parametrize("shape", [(-1, -1), (0, -1), (0, 2**70), (1,) * 70])
def test_a_header_with_impossible_dimensions_is_rejected(shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, header)
    stream.write(bytes(0 if 0 in shape else 4))
    with pytest.raises(RejectItem, match="npy file has the shape"):
        npy(stream.getvalue(), None)


descriptions = st.sampled_from(
    ["'<f4'", "'>i8'", "'?'", "None", "()", "'|V0'", "'<f4,<i4'", "('<f4', (2,))", "'M8[ns]'", "'<U1'", "'O'", "5"]
)
dimensions = st.sampled_from(["0", "1", "2", "-1", "True", "1.0", "'a'", "2**70", "0x" + "f" * 5000, "-" * 500 + "1"])


@given(
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    descriptions,
    st.sampled_from(["True", "False", "0", "None"]),
    st.lists(dimensions, max_size=3),
    st.binary(max_size=16),
)
@example((1, 0), "'<f4'", "False", ["0x" + "f" * 5000], b"")
@example((1, 0), "'<f4'", "False", ["True"], bytes(4))
def test_any_header_gives_an_array_or_a_reason(
    version: tuple[int, int], description: str, order: str, shape: list[str], body: bytes
) -> None:
    header = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': ({''.join(n + ',' for n in shape)})}}\n"
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    with contextlib.suppress(RejectItem):
        assert npy(b"\x93NUMPY" + bytes(version) + length + header.encode() + body, None).dtype.name in DTYPES


@given(st.integers(0, 200), st.integers(0, 255))
def test_damage_gives_an_array_or_a_reason(position: int, value: int) -> None:
    data = bytearray(saved(np.arange(6.0).reshape(2, 3)))
    data[position % len(data)] = value
    with contextlib.suppress(RejectItem):
        assert npy(bytes(data), None).dtype.name in DTYPES


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "npz"}, 'format is "npz"'),
        ({"format": "raw"}, "dtype is None"),
        ({"format": "raw", "dtype": "float32"}, "shape is None"),
        ({"format": "raw", "dtype": "object", "shape": [1]}, "dtype is 'object'"),
        ({"dtype": "float32"}, "leave them out"),
    ],
)
def test_wrong_options_fail_and_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tensor_preprocessor(**options)
