"""Vectors that stand for labels: files that are read without NumPy, and what fails."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdk_inference import Postprocess, PropError
from cdk_inference.model import TensorSpec
from cdk_inference.stages.prototypes import check_prototypes

LABELS = ["cat", "dog"]
VECTORS = np.array([[1, 0, 2], [0, 1, 0]], np.float32)


@pytest.fixture
def save(tmp_path):
    def write(content):
        path = tmp_path / "vectors.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        return path

    return write


def embedding(width):
    return (TensorSpec("embedding", "float32", ("batch", width)),)


def test_prototypes_travel_in_a_file(save):
    path = save(VECTORS)
    code = Postprocess.nearest(prototypes=path, labels=LABELS, scale=100).bind(embedding(3))
    assert code.sources == {"prototypes.npy": path}
    told = {"prototypes_file": "prototypes.npy", "labels": LABELS, "top": 2, "scale": 100, "output": None}
    assert code.options == told
    Postprocess.nearest(prototypes=str(path), labels=LABELS).bind(embedding("width"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
@given(
    arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements=st.sampled_from([0, 1, -2, np.inf, np.nan]),
    ),
    st.sampled_from("CF"),
)
def test_files_are_read_as_numpy_reads_them(save, vectors, order):
    path = save(np.asarray(vectors, order=order))
    if np.isfinite(vectors).all() and vectors.any(axis=1).all():
        assert check_prototypes(path, len(vectors)) == vectors.shape[1]
    else:
        with pytest.raises(PropError, match=r"must be vectors with a direction, got vector \d with"):
            check_prototypes(path, len(vectors))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused(save, place, damage):
    content = bytearray(save(VECTORS).read_bytes())
    content[place : place + len(damage)] = damage
    with suppress(PropError):
        check_prototypes(save(bytes(content)), 2)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_takes_little_more_memory_than_its_bytes(save, order):
    path = save(np.ones((2, 500_000), np.float16, order=order))
    tracemalloc.start()
    try:
        assert check_prototypes(path, 2) == 500_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * path.stat().st_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not one", r"got '.*vectors.npy', which is none: it does not begin as one"),
        (VECTORS[:1], r"a vector for each label, got <f4 \(1, 3\)"),
        (VECTORS.astype(np.int64), "got <i8 .*; save them with numpy.save"),
        (VECTORS[None], r"got <f4 \(1, 2, 3\)"),
    ],
)
def test_other_files_fail(save, content, message):
    with pytest.raises(PropError, match=message):
        Postprocess.nearest(prototypes=save(content), labels=LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": "nowhere.npy"}, "prototypes must be an existing file, got 'nowhere.npy'"),
        ({"top": 3}, "top must be 1 to 2, the number of labels, got 3"),
        ({"top": 1001, "labels": ["a"] * 1001}, "top must be 1 to 1,000, which fit a row, got 1001"),
        ({"scale": 0}, "scale must be above 0, got 0"),
    ],
)
def test_wrong_options_fail(save, options, message):
    with pytest.raises(PropError, match=message):
        Postprocess.nearest(**{"prototypes": save(VECTORS), "labels": LABELS, **options})


def test_vectors_of_another_model_fail(save):
    stage = Postprocess.nearest(prototypes=save(VECTORS), labels=LABELS)
    with pytest.raises(
        PropError, match="must be vectors of 384 numbers, as the model's output 'embedding', got 3; make"
    ):
        stage.bind(embedding(384))
