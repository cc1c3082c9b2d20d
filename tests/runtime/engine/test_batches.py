"""Batches: whatever memory and model allow, the results are those of one run."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.waiting import PATIENCE

from inference_runtime.engine.batches import Batches
from inference_runtime.errors import OutOfMemoryError
from inference_runtime.tensors.tensor import Tensor, arrays_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 939524096"


class Card:
    """Runs batches like a model on a GPU whose memory holds so many numbers."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, chunk: Mapping[str, np.ndarray], count: int) -> list[np.ndarray]:
        assert {len(array) for array in chunk.values()} == {count}
        if sum(array.size for array in chunk.values()) > self.room:
            raise OutOfMemoryError(TEXT)
        self.sizes.append(count)
        return [chunk["x"] * 2, chunk["y"].sum(axis=tuple(range(1, chunk["y"].ndim)))]

    def run(self, chunk: Mapping[str, Tensor], count: int) -> list[Tensor]:
        return [Tensor.of(output) for output in self(arrays_of(chunk), count)]


def run(batches: Batches, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays_of(batches.run(tensors_of(inputs)))


def items(count: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {"x": rng.integers(0, 99, (count, length)), "y": rng.integers(0, 99, (count, 2, 2))}


@given(
    calls=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 9)), min_size=1, max_size=6),
    room=st.integers(13, 300),
    most=st.none() | st.integers(1, 40),
)
def test_in_any_memory_the_results_are_those_of_one_run(
    calls: list[tuple[int, int]], room: int, most: int | None
) -> None:
    card, whole = Card(room), Card(10**9)
    batches = Batches(card.run, ["twice", "sum"], max_batch_size=most)
    for count, length in calls:
        inputs = items(count, length)
        outputs = run(batches, inputs)
        for name, expected in zip(("twice", "sum"), whole(inputs, count), strict=True):
            np.testing.assert_array_equal(outputs[name], expected)
    assert max(card.sizes) <= (most or math.inf)


@given(count=st.integers(1, 30), fixed=st.integers(1, 12))
def test_a_fixed_batch_is_always_full(count: int, fixed: int) -> None:
    card = Card(10**9)
    batches = Batches(card.run, ["twice", "sum"], max_batch_size=1, fixed_batch_size=fixed)
    inputs = items(count, 3)
    np.testing.assert_array_equal(run(batches, inputs)["twice"], inputs["x"] * 2)
    assert card.sizes == [fixed] * math.ceil(count / fixed)
    assert batches.limit(tensors_of(inputs)) == fixed


def test_a_batch_runs_whole_and_what_did_not_fit_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    card = Card(room=10 * 8)
    batches = Batches(card.run, ["twice", "sum"], max_batch_size=None)
    run(batches, items(10, 4))
    assert card.sizes == [10]
    run(batches, items(50, 4))
    assert card.sizes == [10] + [6] * 8 + [2]  # after 50, 25 and 12
    assert batches.limit(tensors_of(items(1, 4))) == 6
    assert batches.limit(tensors_of(items(1, 5))) is None  # items of another shape
    assert "25 items of x int64 [4], y int64 [2, 2] do not fit the memory: 12 at a time" in caplog.text
    caplog.clear()
    run(batches, items(50, 4))
    assert not caplog.records


@pytest.mark.parametrize("fixed", [None, 4])
def test_what_does_not_fit_alone_fails(fixed: int | None) -> None:
    batches = Batches(Card(room=10).run, ["twice", "sum"], max_batch_size=None, fixed_batch_size=fixed)
    with pytest.raises(OutOfMemoryError, match=rf"{fixed or 1} items of x int64 \[7\], y.*Failed to allocate memory"):
        run(batches, items(5, 7))


def test_other_errors_are_not_split() -> None:
    def fail(chunk: Mapping[str, Tensor], count: int) -> Any:
        raise ValueError(count)

    with pytest.raises(ValueError, match=r"^5$"):
        run(Batches(fail, ["twice"], max_batch_size=None), items(5, 1))


@pytest.mark.parametrize("fixed", [None, 4])
def test_no_items_have_outputs_of_the_models_shapes(fixed: int | None) -> None:
    batches = Batches(Card(room=100).run, ["twice", "sum"], max_batch_size=None, fixed_batch_size=fixed)
    outputs = run(batches, items(0, 7))
    assert {name: array.shape for name, array in outputs.items()} == {"twice": (0, 7), "sum": (0,)}


REAL = """
import resource, sys
from pathlib import Path
import struct
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.tensors.tensor import Tensor

engine = LocalEngine()
items = Tensor("float32", [64, 1], struct.pack("<64f", *range(64)))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20, -1))
try:
    y = engine.infer({"x": items})["y"]
    print(engine.limit({"x": items}), y == items)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("megabytes", "says"),
    [
        # Not any number will do: what ONNX Runtime allocates just before it fails stays taken.
        (220, r"2 True"),
        (10, r"OutOfMemoryError 1 items of x float32 \[1\] do not fit the memory: \[ONNXRuntimeError\]"),
    ],
)
def test_with_memory_that_is_really_not_there(tmp_path: Path, megabytes: int, says: str) -> None:
    """ONNX Runtime's own error: the process may not have more memory, as on a card."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["wide"]), helper.make_node("ReduceMax", ["wide", "axes"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            # 64 MiB for each item, which is more than the heap reserves.
            helper.make_tensor("shape", TensorProto.INT64, [2], [1, 16 * 2**20]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    environment = {
        "LAMBDA_TASK_ROOT": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[3] / "lambda_src"),
        "MAX_BATCH": "64",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
    }
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(megabytes)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=True,
    )
    assert re.match(says, done.stdout), done.stdout + done.stderr
