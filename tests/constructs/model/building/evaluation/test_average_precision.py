"""The mean average precision is that of COCO's tool, and falls with each box that is lost or moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.model.building.evaluation.average_precision import COCO, HALF, mean_average_precision

# From pycocotools 2.0.11, for `drawn`: AP at 0.5 to 0.95, and at 0.5.
PYCOCOTOOLS = {
    (0, 6, 1): (0.05934497668989203, 0.10935118305904755),
    (1, 12, 3): (0.1336040007039224, 0.2261641953669051),
    (2, 30, 5): (0.18705667421651734, 0.33580011235417834),
    (3, 20, 20): (0.2583193751705998, 0.4752593116454503),
}


def drawn(seed: int, samples: int, classes: int) -> tuple[list[Any], list[Any]]:
    """Return labels and boxes that were found: moved a little, lost, doubled, of wrong classes, and with equal scores.

    Every third sample has no label, and one has more boxes of a class than count.
    """
    random = np.random.default_rng(seed)
    expected, found = [], []
    for sample in range(samples):
        count = 0 if sample % 3 == 2 else int(random.integers(1, 8))
        corners = random.uniform(0, 400, (count, 2))
        truth = np.concatenate([corners, corners + random.uniform(20, 120, (count, 2))], axis=1)
        numbers = random.integers(0, classes, count)
        expected.append(np.concatenate([numbers[:, None], truth], axis=1).astype(np.float64))
        kept = np.repeat(np.flatnonzero(random.random(count) < 0.8), 2)
        noise = 150 if sample == 0 else 3
        moved = truth[kept] + random.normal(0, 5, (len(kept), 4))
        loose = random.uniform(0, 400, (noise, 2))
        others = np.concatenate([loose, loose + random.uniform(20, 120, (noise, 2))], axis=1)
        guesses = np.where(random.random(len(kept)) < 0.9, numbers[kept], (numbers[kept] + 1) % classes)
        every = np.concatenate([moved, others])
        kinds = np.concatenate([guesses, np.zeros(noise) if sample == 0 else random.integers(0, classes, noise)])
        scores = np.round(random.uniform(0.01, 1, len(every)), 2)
        found.append(np.concatenate([every, scores[:, None], kinds[:, None]], axis=1))
    return expected, found


@pytest.mark.parametrize("case", PYCOCOTOOLS)
def test_values_are_those_of_pycocotools(case: tuple[int, int, int]) -> None:
    values = tuple(mean_average_precision(*drawn(*case), matches) for matches in (COCO, HALF))
    assert values == pytest.approx(PYCOCOTOOLS[case], abs=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_all_boxes_give_one_and_order_does_not_count(seed: int, samples: int, classes: int, order: Any) -> None:
    expected, found = drawn(seed, samples, classes)
    perfect = [np.concatenate([truth[:, 1:], np.ones((len(truth), 1)), truth[:, :1]], axis=1) for truth in expected]
    assert mean_average_precision(expected, perfect) == pytest.approx(1.0)
    ranks = np.random.default_rng(seed).permutation(sum(map(len, found))).astype(float)  # no two are equal
    for boxes in found:
        boxes[:, 4], ranks = ranks[: len(boxes)], ranks[len(boxes) :]
    value = mean_average_precision(expected, found, HALF)
    assert 0 <= mean_average_precision(expected, found) <= value <= 1
    places = list(range(samples))
    order.shuffle(places)
    mixed = [found[place][::-1] for place in places]
    assert mean_average_precision([expected[place] for place in places], mixed, HALF) == pytest.approx(value)
    assert mean_average_precision(expected, [perfect[0][1:], *perfect[1:]]) < 1  # the first sample has a label


def test_classes_without_labels_and_boxes_beyond_a_hundred_do_not_count() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    truth = [np.array([[0.0, *box]])]
    others = np.array([[*box, 0.9, 7.0], [*box, 0.5, 0.0]])
    assert mean_average_precision(truth, [others]) == pytest.approx(1.0)
    wrong = np.array([[100.0, 100.0, 110.0, 110.0, 0.8, 0.0]] * 100)
    assert mean_average_precision(truth, [np.concatenate([wrong, others])]) == 0.0
    assert mean_average_precision(truth, [np.concatenate([wrong[1:], others])]) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize(("order", "value"), [((0, 1), 0.7757425742574257), ((1, 0), 0.6272277227722772)])
def test_of_two_labels_that_match_equally_the_last_is_taken_as_in_pycocotools(
    order: tuple[int, int], value: float
) -> None:
    labels = np.array([[0.0, 0, 0, 10, 10], [0.0, 2, 0, 12, 10]])[[*order]]
    found = np.array([[1.0, 0, 11, 10, 0.9, 0], [0.0, 0, 10, 10, 0.8, 0]])
    assert mean_average_precision([labels], [found]) == pytest.approx(value, abs=1e-12)


def test_nothing_expected_fails() -> None:
    with pytest.raises(ValueError, match="expected must have a box, got none"):
        mean_average_precision([np.zeros((0, 5))], [np.zeros((0, 6))])
