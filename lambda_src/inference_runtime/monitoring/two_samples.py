"""Tells whether two samples of counts come from one distribution, in plain Python: its function has no packages.

Both samples vary: the baseline is itself a sample. So this is the test of homogeneity of a table with two rows, with
both its margins fixed. A threshold on an index such as PSI would not do: without drift, PSI depends on both sizes.
"""

from __future__ import annotations

from math import exp, lgamma, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_EXPECTED = 5.0
"""Counts that a bin must let expect of either sample. Bins with fewer are merged with a neighbour (Cochran, 1954)."""

SMALLEST_P = 1e-300
_EMPTY_SHARE = 1e-4
_PRECISION = 1e-15
_TINY = 1e-300


def merged(window: Sequence[int], baseline: Sequence[int], least: float = LEAST_EXPECTED) -> list[tuple[int, int]]:
    """Return the counts of both samples by bin, neighbours merged until each bin lets expect enough.

    Only the sums of both samples decide what is merged, so that the test stays valid.
    """
    share = min(sum(window), sum(baseline)) / max(1, sum(window) + sum(baseline))
    bins: list[tuple[int, int]] = []
    ours = theirs = 0
    for one, other in zip(window, baseline, strict=True):
        ours, theirs = ours + one, theirs + other
        if share * (ours + theirs) >= least:
            bins.append((ours, theirs))
            ours = theirs = 0
    if bins and (ours or theirs):
        last = bins.pop()
        bins.append((last[0] + ours, last[1] + theirs))
    return bins


def chi_squared(bins: Sequence[tuple[int, int]]) -> float:
    """Return Pearson's statistic of two samples, by bin: the sum of (observed - expected)² / expected."""
    n, m = (sum(column) for column in zip(*bins, strict=True))
    total = 0.0
    for pair in bins:
        for count, size in zip(pair, (n, m), strict=True):
            expected = sum(pair) * size / (n + m)
            total += (count - expected) * (count - expected) / expected
    return total


def p_value(bins: Sequence[tuple[int, int]]) -> float:
    """Return how likely two samples of one distribution differ as much as these, or more.

    For two bins this is the exact probability (Fisher's, two-sided). For more, it is the larger of two approximations:
    a gamma distribution with the statistic's exact mean and variance, and the chi-squared distribution. The latter has
    them only if all counts are large; the former falls off too early in the far tail of small samples.

    Returns
    -------
    float
        At least 1e-300. 1 for fewer than two bins, which tell nothing.
    """
    if len(bins) < 2:  # noqa: PLR2004 - see above
        return 1.0
    if len(bins) == 2:  # noqa: PLR2004
        return max(SMALLEST_P, _fisher(*bins))
    statistic, (mean, variance) = chi_squared(bins), _moments(bins)
    exact_moments = _upper_gamma(mean * mean / variance, statistic * mean / variance)
    return max(SMALLEST_P, exact_moments, _upper_gamma((len(bins) - 1) / 2, statistic / 2))


def _moments(bins: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return mean and variance of Pearson's statistic over all tables with these margins (Haldane, 1940)."""
    rows = [sum(column) for column in zip(*bins, strict=True)]
    columns = [sum(pair) for pair in bins]
    total = sum(rows)

    def parts(margin: Sequence[int]) -> tuple[float, float]:
        count = len(margin)
        free = (count - 1) * (total - count) / (total - 1)
        return free, (sum(total / each for each in margin) - count * count) / (total - 2)

    (free_rows, uneven_rows), (free_columns, uneven_columns) = parts(rows), parts(columns)
    mean = total * (len(rows) - 1) * (len(columns) - 1) / (total - 1)
    variance = (
        2 * total / (total - 3) * (free_rows - uneven_rows) * (free_columns - uneven_columns)
        + total * total / (total - 1) * uneven_rows * uneven_columns
    )
    return mean, variance


def _fisher(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the probability of all tables with two bins that are not likelier than this one."""
    n, m, inside = first[0] + second[0], first[1] + second[1], sum(first)

    def chance(count: int) -> float:
        return _log_choose(n, count) + _log_choose(m, inside - count) - _log_choose(n + m, inside)

    limit = chance(first[0]) + 1e-7  # rounding must not part tables of one probability
    counts = range(max(0, inside - m), min(n, inside) + 1)
    return min(1.0, sum(exp(value) for count in counts if (value := chance(count)) <= limit))


def _log_choose(total: int, count: int) -> float:
    return lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)


def _upper_gamma(shape: float, value: float) -> float:
    """Return the regularized upper incomplete gamma function (Press et al., Numerical Recipes, 6.2)."""
    if value <= 0:
        return 1.0
    scale: float = shape * log(value) - value - lgamma(shape)
    if value < shape + 1:
        term = total = 1 / shape
        place = shape
        while abs(term) > abs(total) * _PRECISION:
            place += 1
            term *= value / place
            total += term
        return max(0.0, 1 - total * exp(scale))
    b = value + 1 - shape
    c, d = 1 / _TINY, 1 / b
    fraction = d
    for step in range(1, 10_000):
        a = -step * (step - shape)
        b += 2
        d = a * d + b
        d = 1 / (d if abs(d) > _TINY else _TINY)
        c = b + a / c
        c = c if abs(c) > _TINY else _TINY
        fraction *= d * c
        if abs(d * c - 1) < _PRECISION:
            break
    return exp(scale) * fraction if scale > log(_TINY) else 0.0


def stability_index(window: Sequence[int], baseline: Sequence[int]) -> float:
    """Return the population stability index (PSI): how large a difference is, whatever the sizes of the samples.

    A share of 0 counts as 0.0001. A sample without counts tells nothing: it is 0 then.
    """
    if not (sum(window) and sum(baseline)):
        return 0.0
    shares = [[count / sum(counts) or _EMPTY_SHARE for count in counts] for counts in (window, baseline)]
    total = 0.0
    for one, other in zip(*shares, strict=True):
        total += (one - other) * log(one / other)
    return total


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Return which hypotheses are rejected, so that a false one among all has at most this probability (Holm, 1979)."""
    rejected = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
