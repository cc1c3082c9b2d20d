"""Greedy decoding and beam search give what a plain loop over each item gives, whatever the batch."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.engine.drivers import graphs
from tests.runtime.engine.drivers.graphs import END, VOCABULARY

from inference_runtime.engine.drivers.open_driver import make_driver
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.errors import LittleTimeError, StageError
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from inference_runtime.engine.interfaces import Session

STEPS = 12
CACHED = {"whole_prefix": False, "states": {"present": "past"}}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return sessions of graphs: ``opened(encoder=…, decoder=…)``."""

    def opened(**models: onnx.ModelProto) -> dict[str, CSession]:
        folder = tmp_path_factory.mktemp("graphs")
        graphs.write(folder, {}, models)
        return {name: CSession(str(folder / f"{name}.onnx"), Threads(1, spin=False)) for name in models}

    return opened


@pytest.fixture(scope="module")
def drivers(opened: Any) -> dict[tuple[bool, int], Session]:
    """Drivers by whether they have a cache, and by their width."""
    encoder = opened(encoder=graphs.encoder())
    found = {}
    for cached, width in itertools.product((False, True), (1, 3)):
        sessions = encoder | opened(decoder=graphs.decoder(cached=cached, places=width))
        description = graphs.description(width=width, length_penalty=0.7, **(CACHED if cached else {}))
        found[cached, width] = make_driver(description, sessions)
    return found


def searched(source: np.ndarray, width: int, penalty: float, steps: int = STEPS) -> tuple[list[int], float]:
    """Search for one item with a plain loop."""
    beam: list[tuple[list[int], float, int, bool]] = [([], 0.0, 0, False)]
    for _ in range(steps):
        found = [each for each in beam if each[3]]
        for tokens, score, made, ended in beam:
            if ended:
                continue
            logarithms = graphs.logarithms(source, tokens)
            for token in range(VOCABULARY):
                after = tokens if token == END else [*tokens, token]
                found.append((after, score + logarithms[token], made + 1, token == END))
        beam = sorted(found, key=lambda each: -each[1])[:width]
    best = max(beam, key=lambda each: each[1] / max(each[2], 1) ** penalty)
    return best[0], best[1] / max(best[2], 1) ** penalty


def run(driver: Session, source: np.ndarray) -> dict[str, np.ndarray]:
    outputs = driver.run({"source": Tensor.of(source)})
    return {value.name: output.array() for value, output in zip(driver.outputs, outputs, strict=True)}


@given(source=st.integers(0, 2**32 - 1), count=st.integers(0, 9), cached=st.booleans(), width=st.sampled_from((1, 3)))
def test_each_item_gets_what_a_plain_loop_finds_for_it(
    drivers: dict[tuple[bool, int], Session], source: int, count: int, cached: bool, width: int
) -> None:
    sources = np.random.default_rng(source).normal(0, 1.5, (count, 3)).astype(np.float32)
    found = run(drivers[cached, width], sources)
    assert found["tokens"].shape == (count, STEPS)
    for item, one in enumerate(sources):
        tokens, score = searched(one, width, 0.7)
        length = found["lengths"][item]
        assert found["tokens"][item].tolist() == [*tokens, *[END] * (STEPS - len(tokens))]
        assert (length, found["scores"][item]) == (len(tokens), pytest.approx(score, abs=1e-4))


def test_a_search_wide_enough_finds_the_likeliest_of_all_sequences(opened: Any) -> None:
    steps, width = 3, VOCABULARY**2
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=True, places=VOCABULARY))
    driver = make_driver(graphs.description(width=width, max_steps=steps, **CACHED), sessions)
    source = np.random.default_rng(3).normal(0, 1.5, (2, 3)).astype(np.float32)
    found = run(driver, source)
    for item, one in enumerate(source):
        scores = {}
        for sequence in itertools.product(range(VOCABULARY), repeat=steps):
            cut = sequence.index(END) + 1 if END in sequence else steps
            scores[sequence[:cut]] = sum(graphs.logarithms(one, list(sequence[:n]))[sequence[n]] for n in range(cut))
        best = max(scores, key=lambda sequence: scores[sequence])
        assert found["tokens"][item, : found["lengths"][item]].tolist() == [token for token in best if token != END]
        assert found["scores"][item] == pytest.approx(scores[best], abs=1e-4)


def test_a_prompt_is_read_at_once_or_token_by_token_as_the_graph_takes_it(opened: Any) -> None:
    source = np.random.default_rng(4).normal(0, 1.5, (5, 3)).astype(np.float32)
    encoder = opened(encoder=graphs.encoder())
    found = []
    for changes, steps in (({}, "steps"), (CACHED, "steps"), (CACHED, 1)):
        decoder = opened(decoder=graphs.decoder(cached=bool(changes), places=1, steps=steps))
        driver = make_driver(graphs.description(start=[1, 4, 5], **changes), encoder | decoder)
        found.append(run(driver, source)["tokens"].tolist())
    assert found[0] == found[1] == found[2]
    assert found[0] != run(make_driver(graphs.description(), encoder | decoder_of(opened)), source)["tokens"].tolist()


def decoder_of(opened: Any) -> dict[str, CSession]:
    sessions: dict[str, CSession] = opened(decoder=graphs.decoder(cached=False, places=1))
    return sessions


def test_a_graph_is_told_how_many_tokens_came_before(opened: Any) -> None:
    decoder = graphs.decoder(cached=True, places=1, steps=1, placed=True)
    sessions = opened(encoder=graphs.encoder(), decoder=decoder)
    asked, inner = [], sessions["decoder"].run
    sessions["decoder"].run = lambda inputs: (asked.append(inputs["place"].values()[0]), inner(inputs))[1]
    source = np.random.default_rng(4).normal(0, 1.5, (5, 3)).astype(np.float32)
    driver = make_driver(graphs.description(start=[1, 4, 5], position="place", **CACHED), sessions)
    lengths = run(driver, source)["lengths"]
    assert asked == list(range(max(lengths) + 3))
    assert max(lengths) < STEPS  # the further it is, the likelier is the end


def test_nothing_ends_before_its_least_steps(opened: Any) -> None:
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=True, places=2))
    source = np.random.default_rng(6).normal(0, 1.5, (16, 3)).astype(np.float32)
    lengths = run(make_driver(graphs.description(min_steps=4, **CACHED), sessions), source)["lengths"]
    assert lengths.min() == 4
    assert run(make_driver(graphs.description(**CACHED), sessions), source)["lengths"].min() < 4


def test_an_input_may_have_another_name_than_what_it_reads(opened: Any) -> None:
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=False, places=1, memory="heard_before"))
    entries = [{"name": "encoder", "reads": {}}, {"name": "decoder", "reads": {"heard_before": "memory"}}]
    driver = make_driver(graphs.description(graphs=entries), sessions)
    assert [value.name for value in driver.inputs] == ["source"]
    source = np.ones((2, 3), np.float32)
    assert run(driver, source)["tokens"][0].tolist() == [*searched(source[0], 1, 0.0)[0], *[END] * STEPS][:STEPS]


def test_the_engine_of_a_function_opens_what_lies_in_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"encoder": graphs.encoder(), "decoder": graphs.decoder(cached=True, places=3)}
    graphs.write(tmp_path / "model", graphs.description(width=3, outputs=["lengths", "tokens"], **CACHED), models)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    source = np.random.default_rng(8).normal(0, 1.5, (37, 3)).astype(np.float32)  # more than one run of the model
    found = []
    for kind in ("c_api", "python"):
        monkeypatch.setenv("INFERENCE_ENGINE", kind)
        engine = LocalEngine()
        assert (engine.inference, engine.output_names) == ("cpu", ["lengths", "tokens"])
        engine.warm_up()
        found.append(engine.infer({"source": Tensor.of(source)}))
        engine.start_deadline(-1)
        with pytest.raises(LittleTimeError, match="no further step"):
            engine.infer({"source": Tensor.of(source)})
        with pytest.raises(StageError, match="the model expects"):
            engine.infer({"other": Tensor.of(source)})
    assert found[0] == found[1]
    assert found[0]["tokens"].shape == (37, STEPS)


def test_a_text_ends_at_a_token_that_its_own_item_names(
    drivers: dict[tuple[bool, int], Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"encoder": graphs.encoder(), "decoder": graphs.decoder(cached=True, places=1)}
    graphs.write(tmp_path / "model", graphs.description(**CACHED), models)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.setenv("MAX_BATCH", "4")
    engine = LocalEngine()
    source = np.random.default_rng(9).normal(0, 1.5, (11, 3)).astype(np.float32)
    inputs = {"source": Tensor.of(source)}
    began = []

    def begin(item: int) -> Any:
        began.append(item)
        return lambda token: token == item % VOCABULARY

    whole = engine.infer(inputs)
    ends = [partial(begin, item) if item % 3 else None for item in range(len(source))]
    parts = list(engine.runs(inputs, ends))
    assert [len(part["lengths"]) for part in parts] == [4, 4, 3]
    assert began == [item for item in range(len(source)) if item % 3]
    rows = [row for part in parts for row in zip(part["tokens"].array(), part["lengths"].array(), strict=True)]
    cut = 0
    for item, (tokens, length) in enumerate(rows):
        said = whole["tokens"].array()[item, : whole["lengths"].array()[item]].tolist()
        named = item % VOCABULARY
        expected = said[: said.index(named) + 1] if item % 3 and named in said else said
        assert tokens[:length].tolist() == expected
        cut += expected != said
    assert cut
    assert engine.infer(inputs) == whole  # the next batch has no such ends

    beams = drivers[True, 3]
    monkeypatch.setattr(beams, "text_ends", ends, raising=False)
    found = run(beams, source)
    monkeypatch.setattr(beams, "text_ends", ())
    np.testing.assert_equal(found, run(beams, source))


def test_a_search_ends_between_two_steps_when_the_time_is_over(opened: Any) -> None:
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=True, places=2))
    driver = make_driver(graphs.description(min_steps=10, **CACHED), sessions)
    decoder, steps = sessions["decoder"], []
    inner = decoder.run

    def counted(inputs: Any) -> Any:
        steps.append(inputs["past"].shape[1])
        if len(steps) == 3:
            driver.deadline = time.monotonic() - 1
        return inner(inputs)

    decoder.run = counted
    with pytest.raises(LittleTimeError):
        run(driver, np.ones((1, 3), np.float32))
    assert steps == [0, 1, 2]


def test_rows_that_have_ended_are_left_out_when_half_of_them_have(opened: Any) -> None:
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=True, places=1))
    driver = make_driver(graphs.description(**CACHED), sessions)
    rows, inner = [], sessions["decoder"].run
    sessions["decoder"].run = lambda inputs: (rows.append(len(inputs["tokens"])), inner(inputs))[1]
    lengths = run(driver, np.random.default_rng(9).normal(0, 1.5, (16, 3)).astype(np.float32))["lengths"]
    going = [int(np.sum(lengths >= step)) for step in range(len(rows))]
    expected = [16]
    for live in going[1:]:
        expected.append(expected[-1] if 2 * live > expected[-1] else live)
    assert rows == expected
    assert len(set(rows)) > 1


def test_an_unknown_driver_fails_and_so_does_a_graph_without_what_it_reads(opened: Any) -> None:
    sessions = opened(encoder=graphs.encoder(), decoder=graphs.decoder(cached=False, places=1))
    with pytest.raises(StageError, match='driver is "guess", expected "search" or "recurrent"'):
        make_driver(graphs.description(kind="guess"), sessions)
    driver = make_driver(graphs.description(graphs=[{"name": "decoder", "reads": {}}]), sessions)
    assert [value.name for value in driver.inputs] == ["memory"]
    with pytest.raises(StageError, match="no graph of the model makes 'memory'"):
        driver.run({"source": Tensor.of(np.ones((1, 3), np.float32))})
