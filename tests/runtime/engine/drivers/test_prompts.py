"""Sequences that begin with prompts: each item gets what a plain loop finds for it alone, whatever the batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.engine.drivers import graphs
from tests.runtime.engine.drivers.graphs import END, VOCABULARY

from inference_runtime.engine.drivers.open_driver import make_driver
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.errors import LittleTimeError, StageError
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from inference_runtime.engine.drivers.search import Search

STEPS, STOP = 9, 5
ENDS = [END, STOP]
PROMPTED = {
    "start": [],
    "end": ENDS,
    "max_steps": STEPS,
    "prompt": "asked",
    "mask": "mask",
    "limit": "most",
    "position": "place",
}
CACHED = {"whole_prefix": False, "states": {"present": "past"}}

prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Search]:
    """Drivers by whether they have a cache."""
    return {cached: opened(tmp_path_factory.mktemp("graphs"), cached=cached) for cached in (False, True)}


@pytest.fixture(scope="module")
def beam(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A beam search with a cache."""
    driver: Search = opened(tmp_path_factory.mktemp("beam"), cached=True, width=3, length_penalty=0.7)
    return driver


def opened(folder: Path, *, cached: bool, **changes: Any) -> Any:
    from inference_runtime.engine.onnxruntime_c import CSession
    from inference_runtime.engine.session import Threads

    written = write(folder, cached=cached, **changes)
    sessions = {name: CSession(str(folder / f"{name}.onnx"), Threads(1, spin=False)) for name in ("encoder", "decoder")}
    return make_driver(written, sessions)


def write(folder: Path, *, cached: bool, **changes: Any) -> dict[str, Any]:
    places = changes.get("width", 1) + len(ENDS) * bool(changes.get("min_steps"))
    decoder = graphs.decoder(cached=cached, places=places, placed=True, masked=True)
    description = graphs.description(**PROMPTED, **(CACHED if cached else {"whole_prefix": True}) | changes)
    graphs.write(folder, description, {"encoder": graphs.encoder(), "decoder": decoder})
    return description


def inputs(asked: list[list[int]], most: list[int], *, left: bool, room: int = 0) -> dict[str, Tensor]:
    width = max(map(len, asked)) + room
    filled = [[6] * (width - len(row)) for row in asked]
    tokens = [[*fill, *row] if left else [*row, *fill] for row, fill in zip(asked, filled, strict=True)]
    counts = [[*[0] * len(fill), *[1] * len(row)] for row, fill in zip(asked, filled, strict=True)]
    mask = counts if left else [row[::-1] for row in counts]
    return {
        "source": Tensor.of(np.full((len(asked), 3), 0.3, np.float32)),
        "asked": Tensor.of(np.array(tokens, np.int64)),
        "mask": Tensor.of(np.array(mask, np.int64)),
        "most": Tensor.of(np.array(most, np.int64)),
    }


def answered(prompt: list[int], most: int, least: int = 0) -> list[int]:
    """Answer a prompt with a plain loop."""
    said: list[int] = []
    while len(said) < most:
        scores = graphs.logarithms(np.full(3, 0.3), said, prompt)
        if len(said) < least:
            scores[ENDS] = -np.inf
        if (token := int(np.argmax(scores))) in ENDS:
            break
        said.append(token)
    return said


@given(asked=prompts, left=st.booleans(), cached=st.booleans(), room=st.integers(0, 2), data=st.data())
def test_each_prompt_gets_the_answer_that_it_gets_alone(
    drivers: dict[bool, Search], asked: list[list[int]], left: bool, cached: bool, room: int, data: Any
) -> None:
    most = data.draw(st.lists(st.integers(1, STEPS + 3), min_size=len(asked), max_size=len(asked)))
    driver = drivers[cached]
    tokens, lengths, _ = [each.array() for each in driver.run(inputs(asked, most, left=left, room=room))]
    for row, (prompt, limit) in enumerate(zip(asked, most, strict=True)):
        wanted = answered(prompt, min(limit, STEPS))
        assert tokens[row].tolist() == [*wanted, *[END] * (STEPS - len(wanted))]
        assert lengths[row] == len(wanted)


@given(asked=prompts, left=st.booleans(), data=st.data())
def test_a_beam_search_of_a_batch_finds_what_it_finds_for_each_prompt_alone(
    beam: Search, asked: list[list[int]], left: bool, data: Any
) -> None:
    most = data.draw(st.lists(st.integers(1, STEPS), min_size=len(asked), max_size=len(asked)))
    together = [each.array() for each in beam.run(inputs(asked, most, left=left))]
    for row, (prompt, limit) in enumerate(zip(asked, most, strict=True)):
        tokens, lengths, scores = (each.array() for each in beam.run(inputs([prompt], [limit], left=left)))
        assert together[0][row].tolist() == tokens[0].tolist()
        assert together[1][row] == lengths[0] <= limit
        assert together[2][row] == pytest.approx(scores[0], abs=1e-4)


def test_a_stream_gives_one_token_after_the_other(drivers: dict[bool, Search]) -> None:
    prompt = max(([token] for token in range(VOCABULARY)), key=lambda one: len(answered(one, STEPS)))
    wanted = answered(prompt, STEPS)
    assert len(wanted) > 1
    found = list(drivers[True].stream(inputs([prompt], [STEPS], left=True)))
    ended = found[-1].steps > len(found[-1].tokens)
    assert [one.tokens for one in found] == [
        *(tuple(wanted[: count + 1]) for count in range(len(wanted))),
        *([tuple(wanted)] if ended else []),
    ]
    assert [one.ended for one in found] == [*[False] * (len(found) - 1), True]


def test_a_stream_of_several_items_or_hypotheses_is_refused(tmp_path: Path, drivers: dict[bool, Search]) -> None:
    with pytest.raises(StageError, match="a single item"):
        next(drivers[True].stream(inputs([[1], [2]], [1, 1], left=True)))
    with pytest.raises(StageError, match="not of a beam search"):
        next(opened(tmp_path, cached=True, width=2).stream(inputs([[1]], [1], left=True)))


def test_a_stream_ends_between_two_steps_when_the_time_is_over(tmp_path: Path) -> None:
    driver = opened(tmp_path, cached=True, min_steps=8)
    stream = driver.stream(inputs([[0, 3]], [STEPS], left=True))
    next(stream)
    driver.deadline = time.monotonic() - 1
    with pytest.raises(LittleTimeError):
        next(stream)


def test_no_end_token_comes_before_the_least_steps(tmp_path: Path) -> None:
    asked = [[token] for token in range(VOCABULARY)]
    driver = opened(tmp_path, cached=True, min_steps=4)
    tokens, lengths, _ = [each.array() for each in driver.run(inputs(asked, [STEPS] * len(asked), left=True))]
    for prompt, row, length in zip(asked, tokens.tolist(), lengths, strict=True):
        assert row[:length] == answered(prompt, STEPS, least=4)


def test_a_warm_up_takes_a_single_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model", cached=True)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    engine = LocalEngine()
    steps: list[int] = []
    decoder = engine.session._graphs.step  # type: ignore[attr-defined]
    inner = decoder.run
    decoder.run = lambda given: (steps.append(1), inner(given))[1]
    engine.warm_up()
    assert len(steps) == 1
    (answer,) = engine.infer(inputs([[0, 3]], [1], left=True))["tokens"].array().tolist()
    assert answer[0] == answered([0, 3], 1)[0]


def test_a_mask_of_another_shape_than_the_prompts_is_refused(drivers: dict[bool, Search]) -> None:
    given_ = inputs([[1, 2]], [1], left=True) | {"mask": Tensor.of(np.ones((1, 3), np.int64))}
    with pytest.raises(StageError, match="must have the same shape"):
        drivers[True].run(given_)
