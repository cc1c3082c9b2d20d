"""How strongly results speak against a hypothesis, however often somebody looks at them."""

from __future__ import annotations

import math

_TIMES = (1.25, 1.5, 2, 3, 4, 6, 8, 16, 32, 64, 256, 4096)
"""The alternatives of the mixture: by how much their odds exceed those that are allowed."""

_SMALLEST = 1e-4
"""The smallest share that may be allowed: one result would refute a share of 0. Nothing refutes a share of 1."""


def log_evidence(bad: float, total: float, allowed: float) -> float:
    """Return the logarithm of the evidence against "at most this share of the results is bad".

    It is the likelihood ratio of a mixture of larger shares and the allowed one: a test martingale, if the hypothesis
    holds. So the evidence exceeds 1/alpha at any time with at most the probability alpha (Ville's inequality). It may
    be looked at after each result, and by several at the same time: nothing has to be corrected for that.

    The method is Wald's sequential test (1945) with Robbins' mixture (1970). See also Howard, Ramdas, McAuliffe and
    Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49 (2021).

    Parameters
    ----------
    bad
        How many results are bad. Results between good and bad count with a part, from 0 to 1. The ratio is convex in
        them, so its expectation is at most that of results that are either.
    total
        How many results there are.
    allowed
        The share of bad ones that the hypothesis allows, from 0 to 1.
    """
    if not 0 <= bad <= total:
        raise ValueError(f"bad must be from 0 to {total}, got {bad}")
    allowed = max(allowed, _SMALLEST)
    if total == 0 or allowed > 1 - _SMALLEST:
        return 0.0
    odds = allowed / (1 - allowed)
    terms = []
    for times in _TIMES:
        share = times * odds / (1 + times * odds)
        terms.append(bad * math.log(share / allowed) + (total - bad) * math.log((1 - share) / (1 - allowed)))
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms) / len(terms))


def share_of_errors(weight: float, times: float) -> float:
    """Return the share of all errors that a candidate may have at most.

    Objects are given to the arms by a hash, whatever they contain. If the candidate fails at most so many times as
    often as the stable model, each error is the candidate's with at most this probability.

    Parameters
    ----------
    weight
        The share of the objects that the candidate gets, from 0 to 1.
    times
        How many times as many errors are allowed.
    """
    return weight * times / (weight * times + 1 - weight)
