"""Dynamic batching: in any order and company the results are those of a run of one's own."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.runtime.arrays import infer
from tests.waiting import PATIENCE

from inference_runtime.engine.engine import LocalEngine
from inference_runtime.errors import StageError
from inference_runtime.gpu.dynamic_batcher import DynamicBatcher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalEngine:
    """A real model: looks `x` up in a table of 100 squares, which fails for other numbers, and counts its batch."""
    folder: Path = tmp_path_factory.mktemp("squares")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["squares", "x"], ["y"]),
            helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
            helper.make_node("Expand", ["size", "size"], ["count"]),
        ],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "length"])],
        [
            helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", "length"]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor("squares", TensorProto.INT64, [100], [n * n for n in range(100)])],
    )
    (folder / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model" / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMBDA_TASK_ROOT", str(folder))
        patch.setenv("MAX_BATCH", "12")
        return LocalEngine()


@pytest.fixture(scope="module")
def batcher(local: LocalEngine) -> DynamicBatcher:
    return DynamicBatcher(local)


class Held:
    """Keeps the model busy, so that what is asked for meanwhile gathers."""

    def __init__(self, batcher: DynamicBatcher) -> None:
        self._batcher = batcher
        self._go = threading.Event()

    def __enter__(self) -> None:
        begun = threading.Event()

        def wait(engine: LocalEngine) -> None:
            begun.set()
            self._go.wait(PATIENCE)

        self._thread = threading.Thread(target=self._batcher.run_exclusively, args=[wait])
        self._thread.start()
        assert begun.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        while len(self._batcher._waiting) < self.expected:
            pass
        self._go.set()
        self._thread.join()

    expected = 0


requests = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 3), st.integers(0, 9).map(lambda n: 100 if n == 0 else n)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(requests)
def test_in_any_company_the_results_are_ones_own(batcher: DynamicBatcher, asked: list[tuple[int, int, int]]) -> None:
    """Items that the model fails on are among them: they fail by themselves."""

    def ask(request: tuple[int, int, int]) -> bool:
        count, length, value = request
        x = np.full((count, length), value)
        try:
            y = infer(batcher, {"x": x})["y"]
        except Exception as error:
            return value == 100 and "out of data bounds" in str(error)
        return value != 100 and y.shape == x.shape and bool((y == x * x).all())

    held = Held(batcher)
    held.expected = len(asked)
    with ThreadPoolExecutor(len(asked)) as pool:
        with held:
            answers = pool.map(ask, asked)
        assert all(answers)


def ask_at_once(batcher: DynamicBatcher, *xs: np.ndarray) -> list[dict[str, np.ndarray]]:
    held = Held(batcher)
    held.expected = len(xs)
    with ThreadPoolExecutor(len(xs)) as pool:
        with held:
            futures = [pool.submit(infer, batcher, {"x": x}) for x in xs]
        return [future.result() for future in futures]


def test_what_waits_runs_as_one_batch(batcher: DynamicBatcher) -> None:
    one, two, three = ask_at_once(batcher, *(np.full((n, 2), n) for n in (1, 2, 3)))
    assert one["count"].tolist() == [6]
    assert two["count"].tolist() == [6, 6]
    assert three["y"].tolist() == [[9, 9]] * 3


def test_a_batch_stays_within_the_limit(batcher: DynamicBatcher) -> None:
    outputs = ask_at_once(batcher, *(np.full((5, 1), n) for n in range(4)))
    assert [set(found["count"].tolist()) for found in outputs] == [{10}] * 4
    [large] = ask_at_once(batcher, np.ones((30, 1), int))
    assert large["count"].tolist() == [12] * 24 + [6] * 6


def test_other_shapes_wait_for_their_turn(batcher: DynamicBatcher) -> None:
    outputs = ask_at_once(batcher, *(np.full((2, length), 1) for length in (1, 2, 1, 2, 3)))
    assert sorted(found["count"][0] for found in outputs) == [2, 4, 4, 4, 4]
    assert sorted(found["y"].shape for found in outputs) == [(2, 1), (2, 1), (2, 2), (2, 2), (2, 3)]


def test_inputs_of_another_model_disturb_nobody(batcher: DynamicBatcher) -> None:
    with pytest.raises(StageError, match="the model expects"):
        infer(batcher, {"x": np.zeros((1, 2))})
    with pytest.raises(StageError, match="expected the same number of items first in each"):
        infer(batcher, {"x": np.zeros((), np.int64)})
    assert infer(batcher, {"x": np.array([[7]])})["y"].tolist() == [[49]]


def test_what_is_run_exclusively_runs_alone(batcher: DynamicBatcher) -> None:
    running = 0

    def work(engine: LocalEngine) -> int:
        nonlocal running
        running += 1
        assert running == 1
        found = int(infer(engine, {"x": np.array([[5]])})["y"][0, 0])
        running -= 1
        return found

    with ThreadPoolExecutor(6) as pool:
        alone = [pool.submit(batcher.run_exclusively, work) for _ in range(20)]
        others = [pool.submit(infer, batcher, {"x": np.array([[n]])}) for n in range(20)]
        assert [future.result() for future in alone] == [25] * 20
        assert [int(future.result()["y"][0, 0]) for future in others] == [n * n for n in range(20)]

    def fail(engine: LocalEngine) -> Any:
        sys.exit("not even this ends the thread")

    with pytest.raises(SystemExit):
        batcher.run_exclusively(fail)
    assert infer(batcher, {"x": np.array([[2]])})["y"].tolist() == [[4]]
