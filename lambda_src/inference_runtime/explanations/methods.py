"""How much each part of an item adds to an answer, by what the model says without it."""

from __future__ import annotations

from itertools import pairwise
from math import factorial

from inference_runtime.explanations.runs import OutOfTimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from inference_runtime.explanations.runs import Runs

MOST_EXACT = 12
"""Most parts of which all coalitions are scored: 4,096 runs."""

ORDERS = 16
"""Orders of the parts that are scored forwards and backwards, where there are too many coalitions."""


def one_by_one(count: int, runs: Runs, whole: float) -> tuple[list[float], bool]:
    """Hide each part alone, and return what that takes from the score.

    For pictures this is occlusion (Zeiler and Fergus, arXiv 1311.2901), for texts leaving one token out.

    Returns
    -------
    tuple
        The weights, and whether there was time for all that was planned: always, for this method.

    Raises
    ------
    OutOfTimeError
        If there is not time for all parts.
    """
    return [whole - score for score in runs.all([1 << part for part in range(count)])], True


def rise(count: int, runs: Runs, *, masks: int) -> tuple[list[float], bool]:
    """Hide random halves of the parts, and return the mean score with each part less the mean without it.

    RISE (Petsiuk, Das and Saenko, arXiv 1806.07421) with two changes. A part is hidden or not, without smooth edges.
    Each mask comes with its opposite, so that each part is shown as often as it is hidden.

    Returns
    -------
    tuple
        The weights, and whether there was time for all masks.

    Raises
    ------
    OutOfTimeError
        If there is not time for twice as many masks as there are parts.
    """
    from random import Random  # noqa: PLC0415 - loads OpenSSL, and most items are not explained

    least = min(masks, 2 * count)
    planned = int(min(masks, runs.affordable()))
    if planned < least:
        raise OutOfTimeError(_too_few(least))
    random, everything = Random(0), (1 << count) - 1  # noqa: S311 - the same masks for each item
    pairs = [random.getrandbits(count) for _ in range(planned // 2)]
    hidden = [mask for pair in pairs for mask in (pair, pair ^ everything)]
    scores = runs.some(hidden)
    done = len(scores) // 2
    if done < least // 2:
        raise OutOfTimeError(_too_few(least))
    weights = [0.0] * count
    for mask, score in zip(hidden, scores[: 2 * done], strict=False):
        for part in range(count):
            weights[part] += -score if mask >> part & 1 else score
    return [weight / done for weight in weights], done == masks // 2


def shapley(count: int, runs: Runs, whole: float) -> tuple[list[float], bool]:
    """Return the Shapley values of the parts: they add up to the whole score less that of hiding everything.

    They are exact for up to `MOST_EXACT` parts, if there is time. Otherwise they are the mean over random orders of the
    parts (Castro et al. 2009), which adds up too. Each order is taken forwards and backwards (Mitchell et al., arXiv
    2104.12199).

    Returns
    -------
    tuple
        The values, and whether there was time for all that was planned.

    Raises
    ------
    OutOfTimeError
        If there is not time for one order.
    """
    if count > MOST_EXACT:
        return _by_orders(count, runs, whole)
    try:
        return _exact(count, runs.all(range(2**count))), True
    except OutOfTimeError:
        return _by_orders(count, runs, whole)[0], False


def _exact(count: int, scores: list[float]) -> list[float]:
    ways = [factorial(shown) * factorial(count - shown - 1) / factorial(count) for shown in range(count)]
    values = [0.0] * count
    for hidden, score in enumerate(scores):
        for part in range(count):
            if hidden >> part & 1:
                gain = scores[hidden ^ (1 << part)] - score
                values[part] += ways[count - hidden.bit_count()] * gain
    return values


def _by_orders(count: int, runs: Runs, whole: float) -> tuple[list[float], bool]:
    from random import Random  # noqa: PLC0415 - see `rise`

    random, everything = Random(0), (1 << count) - 1  # noqa: S311 - the same orders for each item
    each = count - 1  # runs of an order, whose beginning and end are the same for all
    planned = 2 * ORDERS
    if (affordable := runs.affordable()) < 1 + planned * each:
        planned = int((affordable - 1) // each) if each else 0
    orders: list[list[int]] = []
    while len(orders) < planned:
        order = random.sample(range(count), count)
        orders += [order, order[::-1]]
    coalitions = [everything]
    for order in orders[:planned]:
        hidden = everything
        for part in order[:-1]:
            hidden ^= 1 << part
            coalitions.append(hidden)
    scores = runs.some(coalitions)
    done = min(planned, (len(scores) - 1) // each if each else len(scores))
    if done < 1:
        raise OutOfTimeError(_too_few(count))
    values = [0.0] * count
    for number, order in enumerate(orders[:done]):
        path = [scores[0], *scores[1 + number * each : 1 + (number + 1) * each], whole]
        for part, (before, after) in zip(order, pairwise(path), strict=True):
            values[part] += (after - before) / done
    return values, done == 2 * ORDERS


def _too_few(runs: int) -> str:
    return f"{runs} runs of the model do not fit into the time"
