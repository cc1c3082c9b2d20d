"""The methods next to their definitions, on games that hypothesis makes up, and within any time."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.explanations import methods
from inference_runtime.explanations.runs import CHUNK, NotFiniteError, OutOfTimeError, Runs
from inference_runtime.tensors.tensor import Tensor, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Game:
    """A score for each coalition of shown parts, which takes a second a run."""

    def __init__(self, count: int, value: Callable[[frozenset[int]], float], seconds: float = math.inf) -> None:
        self.count, self._value, self.now = count, value, 0.0
        self.seen: list[int] = []
        self.runs = Runs(self._infer, "y", self, self, seconds=seconds, clock=lambda: self.now)  # type: ignore[arg-type]

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        self.seen += coalitions
        shown = [frozenset(n for n in range(self.count) if not hidden >> n & 1) for hidden in coalitions]
        values = [self._value(each) for each in shown]
        return {"x": Tensor("float64", [len(values)], packed("float64", values))}

    def _infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.now += len(inputs["x"])
        return {"y": inputs["x"]}

    def scores(self, output: Tensor) -> list[float]:
        return list(output.values())

    def whole(self) -> float:
        (whole,) = self.runs.all([0])
        return whole


@st.composite
def games(draw: st.DrawFn, most: int = 5) -> tuple[int, dict[frozenset[int], float]]:
    count = draw(st.integers(1, most))
    coalitions = [frozenset(each) for size in range(count + 1) for each in itertools.combinations(range(count), size)]
    values = draw(st.lists(st.floats(-10, 10), min_size=len(coalitions), max_size=len(coalitions)))
    return count, dict(zip(coalitions, values, strict=True))


def by_definition(count: int, values: Mapping[frozenset[int], float]) -> list[float]:
    """Return the mean gain of each part over all orders."""
    gains = [0.0] * count
    orders = list(itertools.permutations(range(count)))
    for order in orders:
        for place, part in enumerate(order):
            gains[part] += values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]
    return [gain / len(orders) for gain in gains]


@given(games())
def test_exact_shapley_values_are_those_of_the_definition(game: tuple[int, dict[frozenset[int], float]]) -> None:
    count, values = game
    played = Game(count, values.__getitem__)
    found, complete = methods.shapley(count, played.runs, played.whole())
    assert found == pytest.approx(by_definition(count, values), abs=1e-9)
    assert complete
    assert played.runs.done == 1 + 2**count


@given(games(), st.integers(2, 60))
def test_shapley_values_add_up_whatever_the_time_allows(
    game: tuple[int, dict[frozenset[int], float]], seconds: int
) -> None:
    count, values = game
    played = Game(count, values.__getitem__, seconds)
    try:
        found, complete = methods.shapley(count, played.runs, played.whole())
    except OutOfTimeError:
        assert seconds <= 2 + CHUNK + 2 * count
        return
    difference = values[frozenset(range(count))] - values[frozenset()]
    assert math.fsum(found) == pytest.approx(difference, abs=1e-9)
    assert complete or seconds < 1 + 2**count
    assert played.now <= seconds + 1


def test_orders_of_many_features_find_their_weights() -> None:
    weights = [float(n - 10) for n in range(20)]
    played = Game(20, lambda shown: sum(weights[n] for n in shown) + 3.0)
    found, complete = methods.shapley(20, played.runs, played.whole())
    assert found == pytest.approx(weights)  # an order suffices where parts do not depend on each other
    assert complete
    assert played.runs.done == 2 + 2 * methods.ORDERS * 19


def test_one_by_one_is_what_each_part_takes_away() -> None:
    played = Game(5, lambda shown: float(sum(2**n for n in shown)))
    assert methods.one_by_one(5, played.runs, played.whole()) == ([1, 2, 4, 8, 16], True)


def test_rise_ranks_parts_and_shows_each_as_often_as_it_hides_it() -> None:
    weights = [0.0, 5.0, 1.0, 0.0, -2.0, 3.0]
    played = Game(6, lambda shown: sum(weights[n] for n in shown))
    played.whole()
    found, complete = methods.rise(6, played.runs, masks=2000)
    assert complete
    assert found == pytest.approx(weights, abs=0.6)
    assert all(sum(mask >> part & 1 for mask in played.seen[1:]) == 1000 for part in range(6))


def test_rise_takes_fewer_masks_in_less_time() -> None:
    played = Game(6, lambda shown: float(1 in shown), seconds=100)
    played.whole()
    found, complete = methods.rise(6, played.runs, masks=400)
    assert not complete
    assert max(range(6), key=found.__getitem__) == 1
    assert played.now <= 100


@given(st.integers(1, 40), st.integers(0, 200), st.sampled_from(["one_by_one", "rise", "shapley"]))
def test_no_method_takes_more_than_a_run_beyond_its_time(count: int, seconds: int, method: str) -> None:
    played = Game(count, lambda shown: float(len(shown)), seconds)
    try:
        whole = played.whole()
        if method == "rise":
            methods.rise(count, played.runs, masks=400)
        else:
            getattr(methods, method)(count, played.runs, whole)
    except OutOfTimeError:
        pass
    assert played.now <= seconds + 1


def test_runs_that_become_slower_end_in_time_too() -> None:
    played = Game(64, lambda shown: float(len(shown)), seconds=100)
    played.whole()
    honest = played._infer
    played.runs._infer = lambda inputs: (setattr(played, "now", played.now + 60), honest(inputs))[1]
    with pytest.raises(OutOfTimeError):
        methods.one_by_one(64, played.runs, 64.0)
    assert played.now < 100 + 60 + CHUNK


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_that_are_no_numbers_explain_nothing(value: float) -> None:
    played = Game(3, lambda shown: 1.0 if len(shown) > 1 else value)
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        methods.shapley(3, played.runs, played.whole())
