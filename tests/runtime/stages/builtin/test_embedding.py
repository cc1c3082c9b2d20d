"""Embeddings are stored exactly, and in few bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from boto3.dynamodb.types import TypeDeserializer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.embedding import embedding_postprocessor
from inference_runtime.stages.builtin.outputs import outputs_postprocessor
from inference_runtime.stages.rows import prediction_attribute, size_of

vectors = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
)


def stored(vector: Any, **options: Any) -> dict[str, Any]:
    """Return what a reader of the table gets."""
    prediction = embedding_postprocessor(**options)({"vector": np.asarray(vector)}, None)
    return TypeDeserializer().deserialize(prediction_attribute(prediction))


@given(vectors)
def test_a_reader_gets_the_same_numbers(vector: Any) -> None:
    row = stored(vector)
    np.testing.assert_array_equal(np.frombuffer(row["embedding"].value, "<f4"), vector)
    assert row["dimensions"] == len(vector)
    as_list = stored(vector, encoding="list")["embedding"]
    np.testing.assert_array_equal(np.array([float(number) for number in as_list], np.float32), vector)


def test_a_list_takes_half_of_the_outputs_bytes_and_binary_half_of_that() -> None:
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    vector /= np.linalg.norm(vector)
    functions = [embedding_postprocessor(), embedding_postprocessor(encoding="list"), outputs_postprocessor()]
    binary, as_list, outputs = (size_of(prediction_attribute(f({"embedding": vector}, None))) for f in functions)
    assert binary < 1600
    assert 1.8 < as_list / binary < 2.5
    assert 2.7 < outputs / binary < 3.5


@given(vectors.filter(lambda vector: np.abs(vector).max() > 1e-30))
def test_normalised_vectors_have_length_1(vector: Any) -> None:
    unit = np.frombuffer(stored(vector, normalize=True)["embedding"].value, "<f4").astype(np.float64)
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-5)
    assert unit @ vector == pytest.approx(np.linalg.norm(vector.astype(np.float64)), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(dtype: type) -> None:
    assert np.frombuffer(stored(np.array([0.5, -2], dtype))["embedding"].value, "<f4").tolist() == [0.5, -2]


def test_zeros_have_no_direction_and_are_rejected() -> None:
    with pytest.raises(RejectItem, match="all zeros"):
        stored(np.zeros(3, np.float32), normalize=True)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"a": [1], "b": [2]}, r"output is None, but the model returns \['a', 'b'\]: name one"),
        ({"a": [[1]]}, r"the model's output has shape \[1, 1\], expected a vector"),
    ],
)
def test_outputs_that_do_not_fit_fail_and_are_named(outputs: dict[str, Any], says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        embedding_postprocessor()({name: np.array(value, np.float32) for name, value in outputs.items()}, None)


def test_an_unknown_encoding_fails() -> None:
    with pytest.raises(ValueError, match='encoding is "text"'):
        embedding_postprocessor(encoding="text")
