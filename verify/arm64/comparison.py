"""Compares what two machines answered: texts and whole numbers exactly, floats within limits."""

from __future__ import annotations

import re
from binascii import a2b_base64
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """How far floats may be apart.

    Parameters
    ----------
    relative
        Largest difference of two numbers, in relation to the largest number of their tensor. 0 means the same bits.
    absolute
        Largest difference of two single numbers, such as scores, that is allowed whatever their size.
    cosine
        Least cosine of two items of a tensor.
    """

    relative: float = 0.0
    absolute: float = 0.0
    cosine: float = -1.0


EXACT = Limits()


@dataclass
class Comparison:
    """The outcome of a comparison.

    Attributes
    ----------
    problems
        The differences, each with its place; empty if there are none.
    relative
        Largest difference found, as that of `Limits`.
    absolute
        Largest difference of single numbers found.
    cosine
        Least cosine found; None if no tensors of floats were compared.
    """

    problems: list[str] = field(default_factory=list)
    relative: float = 0.0
    absolute: float = 0.0
    cosine: float | None = None

    @property
    def same(self) -> bool:
        """Whether nothing is outside of the limits."""
        return not self.problems

    def __str__(self) -> str:
        """Return the differences in words."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            return self.problems[0] + more
        words = [f"relative {self.relative:.1e}"] if self.relative else []
        words += [f"cosine {self.cosine:.6f}"] if self.relative and self.cosine is not None else []
        words += [f"numbers by {self.absolute:.1e}"] if self.absolute else []
        return ", ".join(words) or "none"


def compare(expected: object, got: object, limits: Limits) -> Comparison:
    """Compare two answers, which are made of dicts, lists, texts, numbers and arrays."""
    comparison = Comparison()
    _walk(expected, got, limits, comparison, "")
    comparison.problems = [
        f"answer{problem}" if problem.startswith(":") else problem for problem in comparison.problems
    ]
    return comparison


def decoded(value: object, read: Callable[[str, str], bytes]) -> object:
    """Return an answer with arrays in place of its tensors, as stages send them to each other.

    Parameters
    ----------
    value
        The answer.
    read
        Returns the bytes of an object, by bucket and key: of large tensors.
    """
    if isinstance(value, list):
        return [decoded(each, read) for each in value]
    if not isinstance(value, dict):
        return value
    if "dtype" in value and "shape" in value and ("data" in value or "key" in value):
        data = a2b_base64(value["data"]) if "data" in value else read(value["bucket"], value["key"])
        return np.frombuffer(data, np.dtype(value["dtype"]).newbyteorder("<")).reshape(value["shape"])
    return {name: decoded(each, read) for name, each in value.items()}


def plain_row(row: Mapping[str, Mapping[str, Any]], *, ranks: bool = True) -> dict[str, object]:
    """Return a row in Python's types, without the time at which it was recorded; binary vectors as arrays.

    Parameters
    ----------
    row
        In DynamoDB's types.
    ranks
        Whether the labels below the best one count. Where two scores are nearly the same, another machine may put them
        in another order; the scores count in any case.
    """
    plain = {name: _plain(value) for name, value in row.items() if name != "recorded_at"}
    prediction = plain.get("prediction")
    if not ranks and isinstance(prediction, dict) and "top" in prediction:
        plain["prediction"] = {**prediction, "top": [entry["score"] for entry in prediction["top"]]}
    return plain


def _plain(attribute: Mapping[str, Any]) -> object:
    ((kind, value),) = attribute.items()
    if kind == "N":
        return Decimal(value)
    if kind == "B":
        return np.frombuffer(value, "<f4") if len(value) % 4 == 0 else value
    if kind == "M":
        return {name: _plain(each) for name, each in value.items()}
    if kind == "L":
        return [_plain(each) for each in value]
    return value


def _walk(expected: Any, got: Any, limits: Limits, found: Comparison, place: str) -> None:
    if isinstance(expected, np.ndarray) and isinstance(got, np.ndarray):
        _compare_arrays(expected, got, limits, found, place)
    elif isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        for name, value in expected.items():
            _walk(value, got[name], limits, found, f"{place}.{name}".lstrip("."))
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, (one, other) in enumerate(zip(expected, got, strict=True)):
            _walk(one, other, limits, found, f"{place}[{index}]")
    elif isinstance(expected, float | Decimal) and isinstance(got, float | Decimal):
        apart = abs(float(expected) - float(got))
        found.absolute = max(found.absolute, apart)
        if not apart <= limits.absolute:
            _compare_arrays(np.array([float(expected)]), np.array([float(got)]), limits, found, place, vector=False)
    elif type(expected) is not type(got) or _masked(expected) != _masked(got):
        found.problems.append(f"{place}: {_short(got)} instead of {_short(expected)}")


def _compare_arrays(
    expected: Array, got: Array, limits: Limits, found: Comparison, place: str, *, vector: bool = True
) -> None:
    if expected.dtype != got.dtype or expected.shape != got.shape:
        found.problems.append(f"{place}: {got.dtype} {got.shape} instead of {expected.dtype} {expected.shape}")
        return
    if expected.tobytes() == got.tobytes():
        if vector and expected.dtype.kind == "f" and expected.size:
            found.cosine = min(1.0, 1.0 if found.cosine is None else found.cosine)
        return
    if expected.dtype.kind != "f":
        found.problems.append(f"{place}: {np.count_nonzero(expected != got)} of {expected.size} elements differ")
        return
    one, other = expected.astype(np.float64), got.astype(np.float64)
    scale = float(np.abs(one).max())
    # A NaN anywhere makes the difference NaN, which is within no limit.
    relative = float(np.abs(one - other).max()) / (scale or 1.0)
    found.relative = max(found.relative, relative) if relative == relative else float("inf")  # noqa: PLR0124
    if not relative <= limits.relative:
        found.problems.append(f"{place}: differs by {relative:.1e}, at most {limits.relative:.0e} is allowed")
    if vector:
        cosine = _least_cosine(one, other)
        found.cosine = cosine if found.cosine is None else min(found.cosine, cosine)
        if not cosine >= limits.cosine:
            found.problems.append(f"{place}: cosine {cosine:.6f}, at least {limits.cosine} is needed")


def _least_cosine(one: Array, other: Array) -> float:
    rows = (one.reshape(len(one), -1), other.reshape(len(other), -1)) if one.ndim > 1 else (one[None], other[None])
    a, b = rows
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms)).min())


def _masked(value: object) -> object:
    """Return a text without addresses in memory, which some errors of Python name."""
    return re.sub(r"\b0x[0-9a-f]+", "0x…", value) if isinstance(value, str) else value


def _short(value: object) -> str:
    return f"{value!r:.120}"
