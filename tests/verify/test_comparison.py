"""A planted difference must be found, wherever it is; what may differ must not."""

from __future__ import annotations

import copy
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify.arm64.comparison import EXACT, Limits, compare, decoded, plain_row

LOOSE = Limits(relative=0.1, absolute=0.02, cosine=0.99)


def tensor(values: Any, dtype: str = "float32") -> dict[str, Any]:
    array = np.array(values, dtype)
    return {"dtype": dtype, "shape": list(array.shape), "data": b64encode(array.tobytes()).decode()}


def no_objects(bucket: str, key: str) -> bytes:
    raise AssertionError(f"{bucket}/{key} was read")


ANSWER: dict[str, Any] = {
    "items": [{"id": "a1", "size": 7, "version_id": None}, {"id": "b2", "size": 8, "version_id": "v"}],
    "rejected": [{"index": 1, "reason": "not an image"}],
    "retry": [],
    "groups": [{"indices": [0], "outputs": {"logits": tensor([[1.0, 2.0, 3.0]]), "tokens": tensor([[5, 6]], "int64")}}],
    "ready": True,
}


def seen(answer: dict[str, Any]) -> object:
    return decoded(answer, no_objects)


def test_equal_answers_are_the_same() -> None:
    for limits in (EXACT, LOOSE):
        comparison = compare(seen(ANSWER), seen(copy.deepcopy(ANSWER)), limits)
        assert comparison.same
        assert (comparison.relative, comparison.cosine) == (0.0, 1.0)
        assert str(comparison) == "none"


@pytest.mark.parametrize("limits", [EXACT, LOOSE])
@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("items", 0, "id"), "a2", "items[0].id"),
        (("items", 0, "size"), 8, "items[0].size"),
        (("items", 0, "version_id"), "v", "items[0].version_id"),
        (("items", 1, "version_id"), None, "items[1].version_id"),
        (("rejected", 0, "reason"), "not an image at all", "rejected[0].reason"),
        (("rejected",), [], "rejected"),
        (("retry",), ["m"], "retry"),
        (("ready",), 1, "ready"),
        (("groups", 0, "indices"), [1], "groups[0].indices[0]"),
        (("groups", 0, "outputs", "logits"), tensor([[1.0, 2.0, 9.0]]), "groups[0].outputs.logits"),
        (("groups", 0, "outputs", "logits"), tensor([[1.0, 2.0, np.nan]]), "groups[0].outputs.logits"),
        (("groups", 0, "outputs", "logits"), tensor([[-1.0, 2.0, 3.0]]), "groups[0].outputs.logits"),
        (("groups", 0, "outputs", "logits"), tensor([[1.0, 2.0]]), "groups[0].outputs.logits"),
        (("groups", 0, "outputs", "logits"), tensor([[1.0, 2.0, 3.0]], "float64"), "groups[0].outputs.logits"),
        (("groups", 0, "outputs", "tokens"), tensor([[5, 7]], "int64"), "groups[0].outputs.tokens"),
        (("groups", 0, "outputs"), {"logits": tensor([[1.0, 2.0, 3.0]])}, "groups[0].outputs"),
    ],
)
def test_a_planted_difference_fails_with_its_place(
    limits: Limits, path: tuple[str | int, ...], value: object, place: str
) -> None:
    changed: Any = copy.deepcopy(ANSWER)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    for expected, got in ((ANSWER, changed), (changed, ANSWER)):
        comparison = compare(seen(expected), seen(got), limits)
        assert not comparison.same
        assert comparison.problems[0].startswith(f"{place}: ")


def test_the_last_bit_counts_unless_limits_allow_it() -> None:
    one = np.array([[1.0, 2.0, 3.0]], np.float32)
    other = np.nextafter(one, np.float32(9.0))
    exact = compare(one, other, EXACT)
    assert exact.problems == ["answer: differs by 7.9e-08, at most 0e+00 is allowed"]
    allowed = compare(one, other, Limits(relative=1e-6))
    assert allowed.same
    assert str(allowed) == "relative 7.9e-08, cosine 1.000000"


def test_items_are_judged_one_by_one() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(50, 100))
    other = one.copy()
    other[17] = -other[17]
    comparison = compare(one, other, Limits(relative=1e9, cosine=0.99))
    assert comparison.cosine == pytest.approx(-1.0)
    assert comparison.problems == ["answer: cosine -1.000000, at least 0.99 is needed"]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_single_numbers_within_the_absolute_limit_are_the_same(one: float, other: float) -> None:
    assert compare([one], [other], Limits(absolute=0.02)).same == (abs(one - other) <= 0.02)


def test_large_tensors_are_read_from_their_objects() -> None:
    data = np.arange(6, dtype=np.float32)
    reference = {"dtype": "float32", "shape": [2, 3], "bucket": "work", "key": "tensors/1"}
    objects = {("work", "tensors/1"): data.tobytes()}
    found: Any = decoded({"outputs": {"logits": reference}}, lambda bucket, key: objects[bucket, key])
    assert np.array_equal(found["outputs"]["logits"], data.reshape(2, 3))


def test_addresses_in_memory_are_no_difference() -> None:
    one, other = (f"cannot identify <_io.BytesIO object at {address}>" for address in ("0x7f4025", "0x7f3c9d80"))
    assert compare(one, other, EXACT).same
    assert not compare(one, other.replace("BytesIO", "FileIO"), EXACT).same


def row(labels: list[str], scores: list[str], **more: Any) -> dict[str, Any]:
    top = [{"M": {"label": {"S": label}, "score": {"N": score}}} for label, score in zip(labels, scores, strict=True)]
    prediction = {"M": {"label": {"S": labels[0]}, "top": {"L": top}}}
    return {"object": {"S": "inbox/cat.jpg"}, "prediction": prediction, "recorded_at": {"S": "now"}, **more}


def test_rows_are_compared_without_their_time() -> None:
    one = row(["cat", "dog"], ["0.9", "0.1"])
    later = {**one, "recorded_at": {"S": "later"}}
    assert compare(plain_row(one), plain_row(later), EXACT).same
    assert not compare(plain_row(one), plain_row({**one, "status": {"S": "FAILED"}}), EXACT).same


def test_near_ties_may_swap_below_the_best_label() -> None:
    one, swapped = (
        row(["cat", "dog", "owl"], ["0.9", "0.051", "0.049"]),
        row(["cat", "owl", "dog"], ["0.9", "0.05", "0.05"]),
    )
    assert not compare(plain_row(one), plain_row(swapped), LOOSE).same
    allowed = compare(plain_row(one, ranks=False), plain_row(swapped, ranks=False), LOOSE)
    assert allowed.same
    assert str(allowed) == "numbers by 1.0e-03"
    best = row(["dog", "cat", "owl"], ["0.9", "0.051", "0.049"])
    assert not compare(plain_row(one, ranks=False), plain_row(best, ranks=False), LOOSE).same
    score = row(["cat", "dog", "owl"], ["0.7", "0.051", "0.049"])
    assert not compare(plain_row(one, ranks=False), plain_row(score, ranks=False), LOOSE).same


def test_vectors_in_rows_are_compared_as_floats() -> None:
    vector = np.array([0.5, -0.5, 0.25], np.float32)
    near, far = vector * np.float32(1.0001), vector[::-1]
    one, *others = ({"embedding": {"B": each.tobytes()}} for each in (vector, near, far))
    assert [compare(plain_row(one), plain_row(other), Limits(relative=1e-3)).same for other in others] == [True, False]
