"""Tokens are drawn by the probabilities that transformers computes, and the same ones whenever the same is asked."""

from __future__ import annotations

from math import inf, log, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.runtime.engine.drivers import graphs
from tests.runtime.engine.drivers.graphs import VOCABULARY
from tests.runtime.engine.drivers.test_prompts import CACHED, ENDS, PROMPTED, STEPS, answered, inputs, prompts

from inference_runtime.engine.drivers.open_driver import make_driver
from inference_runtime.engine.drivers.prompts import Beginnings
from inference_runtime.engine.drivers.sampling import Draws, Noise, likeliest
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from inference_runtime.engine.drivers.search import Search

SETTINGS = {"temperature": 1.3, "top_k": 5, "top_p": 0.9, "seed": 3, "inputs": {}}
OF_ITEMS = {"temperature": "heat", "top_p": "mass", "seed": "number"}
KEY = bytes(32)
logits = st.sets(st.integers(-320, 320), min_size=1, max_size=40)  # of those that are alike, transformers keeps all


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return drivers: ``opened(places=…, min_steps=…, **settings)``."""

    def opened(places: int = VOCABULARY, min_steps: int = 0, **settings: Any) -> Search:
        folder = tmp_path_factory.mktemp("graphs")
        description = graphs.description(
            **PROMPTED, **CACHED, min_steps=min_steps, sampling={**SETTINGS, "top_k": places, **settings}
        )
        decoder = graphs.decoder(cached=True, places=places, placed=True, masked=True)
        graphs.write(folder, description, {"encoder": graphs.encoder(), "decoder": decoder})
        sessions = {
            name: CSession(str(folder / f"{name}.onnx"), Threads(1, spin=False)) for name in ("encoder", "decoder")
        }
        driver: Search = make_driver(description, sessions)  # type: ignore[assignment]
        return driver

    return opened


@pytest.fixture(scope="module")
def plain(opened: Any) -> Any:
    return opened()


@pytest.fixture(scope="module")
def of_items(opened: Any) -> Any:
    """A driver that reads the settings of each item."""
    return opened(inputs=OF_ITEMS)


def warped(scores: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Return the logarithms of probabilities that transformers draws from, not normalized.

    It is what its TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper compute in this order.
    """
    found = scores.astype(np.float64) / temperature
    found[found < np.sort(found)[-min(top_k, len(found))]] = -inf
    order = np.argsort(found, kind="stable")
    probabilities = np.exp(found[order] - found.max())
    unlikely = np.cumsum(probabilities / probabilities.sum()) <= 1 - top_p
    unlikely[-1] = False
    found[order[unlikely]] = -inf
    return found


def said(driver: Search, given_: dict[str, Tensor]) -> list[list[int]]:
    tokens, lengths, _ = [each.array() for each in driver.run(given_)]
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


def with_settings(given_: dict[str, Tensor], heat: Any, mass: Any, number: Any) -> dict[str, Tensor]:
    made = {"heat": (heat, np.float32), "mass": (mass, np.float32), "number": (number, np.int64)}
    return given_ | {name: Tensor.of(np.atleast_1d(np.asarray(value, kind))) for name, (value, kind) in made.items()}


@given(
    scores=logits,
    temperature=st.floats(0.05, 20),
    top_k=st.integers(1, 50),
    top_p=st.floats(0.01, 1),
    step=st.integers(0, 10_000),
)
def test_what_may_be_drawn_and_how_likely_is_what_transformers_computes(
    scores: set[int], temperature: float, top_k: int, top_p: float, step: int
) -> None:
    values = np.array(sorted(scores, reverse=True)) / 16
    values = values - np.log(np.exp(values).sum())
    expected = warped(values, temperature, top_k, top_p)
    kept = int(np.isfinite(expected).sum())
    mass = np.exp(values[:top_k] / temperature - values[0] / temperature).cumsum()
    assume(abs(mass / mass[-1] - top_p).min() > 1e-9)  # rounding decides about what is on the border
    logarithms = [(value - values[0]) / temperature for value in values[:top_k].tolist()]
    assert likeliest(logarithms, top_p) == kept
    tokens = np.random.default_rng(step).permutation(100_000)[: len(values)].tolist()
    place = Draws(top_k, [temperature], [top_p], [KEY]).place(0, step, range(len(values)), values.tolist(), tokens)
    noise = Noise(KEY, step)
    noisy = expected + [noise.of(token) for token in tokens]
    assert noisy[place] == pytest.approx(noisy.max(), abs=1e-9)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    probabilities = [0.5, 0.25, 0.15, 0.1]
    logarithms, draws = [log(one) for one in probabilities], Draws(4, [1.0], [1.0], [KEY])
    count = 20_000
    found = [draws.place(0, step, range(4), logarithms, [11, 7, 9, 8]) for step in range(count)]
    frequencies = np.bincount(found, minlength=4) / count
    assert abs(frequencies - probabilities).max() < sqrt(log(2 / 1e-6) / (2 * count))  # Hoeffding's bound
    assert len({Noise(KEY, step).of(token) for step in range(50) for token in range(50)}) == 2500


@pytest.mark.parametrize(
    ("scores", "temperature", "expected"),
    [
        ([0.0, -inf, -inf], 5.0, 0),
        ([-inf, -inf, -inf], 1.0, 0),
        ([nan, nan, nan], 1.0, 0),
        ([-0.1, -3.0, -4.0], 0.0, 0),
        ([-0.1, -3.0, -4.0], 5e-324, 0),
        ([-1e-3, -1e4, -inf], 1e-30, 0),
    ],
)
def test_hostile_scores_and_temperatures_draw_the_likeliest_token(
    scores: list[float], temperature: float, expected: int
) -> None:
    for step in range(20):
        assert Draws(3, [temperature], [0.9], [KEY]).place(0, step, range(3), scores, [4, 5, 6]) == expected


def keys_of(driver: Search, given_: dict[str, Tensor]) -> list[bytes]:
    """Return the keys of the noise of items."""
    begun = Beginnings.of(given_, [], prompt="asked", mask="mask", limit=None, max_steps=STEPS)
    assert driver._sampling is not None
    return list(driver._sampling.draws(given_, begun)._keys)


def is_drawn(tokens: list[int], prompt: list[int], most: int, settings: dict[str, Any], key: Any) -> bool:
    """Tell whether an answer is what a plain loop may draw, but for rounding."""
    slack = 1e-3
    for step in range(len(tokens) + (len(tokens) < most)):
        scores = graphs.logarithms(np.full(3, 0.3), tokens[:step], prompt)
        noisy = {}
        for mass in (-slack, slack):
            limit = min(max(settings["top_p"] + mass, 1e-9), 1)
            expected = warped(scores, settings["temperature"], settings["top_k"], limit)
            noisy[mass] = expected + [Noise(key, step).of(token) for token in range(VOCABULARY)]
        came = noisy[slack][tokens[step]] if step < len(tokens) else noisy[slack][ENDS].max()
        if came < noisy[-slack].max() - slack:
            return False
    return True


@given(asked=prompts, left=st.booleans(), room=st.integers(0, 2), data=st.data())
def test_each_prompt_gets_what_is_drawn_for_it_alone(
    of_items: Search, asked: list[list[int]], left: bool, room: int, data: Any
) -> None:
    def each(values: Any) -> Any:
        return data.draw(st.lists(values, min_size=len(asked), max_size=len(asked)))

    most, heat, mass = each(st.integers(1, STEPS)), each(st.floats(0.5, 9, width=32)), each(st.sampled_from((0.5, 1)))
    numbers = each(st.integers(0, 2**63 - 1))
    found = said(of_items, with_settings(inputs(asked, most, left=left, room=room), heat, mass, numbers))
    for row, prompt in enumerate(asked):
        settings = {"temperature": heat[row], "top_k": VOCABULARY, "top_p": mass[row]}
        one = with_settings(inputs([prompt], [most[row]], left=True), heat[row], mass[row], numbers[row])
        (key,) = keys_of(of_items, one)
        assert is_drawn(found[row], prompt, most[row], settings, key)
        assert is_drawn(said(of_items, one)[0], prompt, most[row], settings, key)


def test_the_same_request_gets_the_same_text_and_another_seed_another_one(opened: Any, of_items: Search) -> None:
    asked = [[token, 3] for token in range(VOCABULARY)]
    given_ = inputs(asked, [STEPS] * len(asked), left=True)
    first = said(opened(temperature=4.0), given_)
    assert first == said(opened(temperature=4.0), given_) != said(opened(temperature=4.0, seed=4), given_)
    ones = np.ones(len(asked))
    backwards = inputs([row[::-1] for row in asked], [STEPS] * len(asked), left=True)
    keys = {key for each in (given_, backwards) for key in keys_of(of_items, with_settings(each, ones, ones, ones))}
    assert len(keys) == 2 * len(asked) - 1  # the noise of a prompt is its own, and one of these is a palindrome
    by_number = [said(of_items, with_settings(given_, 4 * ones, ones, number * ones)) for number in (1, 2, 1)]
    assert by_number[0] == by_number[2] != by_number[1]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 1e-9}, {"places": 1}])
def test_the_coldest_the_narrowest_and_a_single_candidate_are_greedy(opened: Any, settings: dict[str, Any]) -> None:
    asked = [[token] for token in range(VOCABULARY)]
    found = said(opened(**settings), inputs(asked, [STEPS] * len(asked), left=True))
    assert found == [answered(prompt, STEPS) for prompt in asked]


def test_hostile_settings_of_items_stand_for_those_of_the_model_or_the_nearest_ones(
    plain: Search, of_items: Search
) -> None:
    asked, count = [[1, 3]] * 5, 5
    given_ = inputs(asked, [STEPS] * count, left=True)
    heat = [nan, -1.0, 0.0, inf, 100.0]
    found = said(of_items, with_settings(given_, heat, [nan, -1.0, 1.0, inf, 1.0], np.zeros(count)))
    own = said(plain, inputs([[1, 3]], [STEPS], left=True))[0]
    assert found[:2] == [own, own]
    assert found[2] == answered([1, 3], STEPS)
    assert found[3] == found[4]


def test_no_end_token_is_drawn_before_the_least_steps(opened: Any) -> None:
    asked = [[token] for token in range(VOCABULARY)]
    found = said(opened(min_steps=4, temperature=50.0), inputs(asked, [STEPS] * len(asked), left=True))
    assert min(map(len, found)) == 4
    alone = said(opened(min_steps=4, top_k=1), inputs(asked, [STEPS] * len(asked), left=True))
    assert alone == [answered(prompt, STEPS, least=4) for prompt in asked]


def test_the_score_is_that_of_the_model_and_a_stream_gives_the_text_of_the_row(plain: Search) -> None:
    asked = [[token, 3] for token in range(VOCABULARY)]
    found = [each.array() for each in plain.run(inputs(asked, [2] * len(asked), left=True))]
    whole = [row for row, length in enumerate(found[1]) if length == 2]
    assert len(whole) > 1
    for row in whole:
        *_, last = plain.stream(inputs([asked[row]], [2], left=True))
        tokens, score = found[0][row, :2].tolist(), found[2][row]
        assert list(last.tokens) == tokens
        assert last.score == pytest.approx(float(score), abs=1e-5)
        steps = [graphs.logarithms(np.full(3, 0.3), tokens[:step], asked[row])[tokens[step]] for step in range(2)]
        assert score == pytest.approx(sum(steps), abs=1e-4)
