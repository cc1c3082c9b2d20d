"""Values that preprocessing keeps: they reach postprocessing and the row, and wrong ones fail by themselves."""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.runtime.invocation import Context
from tests.runtime.stages.mean import code, score, staged

from inference_runtime.errors import StageError
from inference_runtime.stages.answers import plain
from inference_runtime.stages.kept import MAX_KEPT_BYTES, take_kept
from inference_runtime.stages.rows import kept_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Inbox

__all__ = ["code", "score", "staged"]  # fixtures

KEEPING = """
    import json
    import numpy as np
    from inference_runtime import RejectItem

    WRONG = {
        "array": np.zeros(2, np.float32),
        "missing": {"x": np.zeros(2, np.float32), "width": 1},
        "extra": {"x": np.zeros(2, np.float32), "width": 1, "about": 1, "height": 2},
    }

    def preprocess(data, item):
        assert item.kept == {}
        told = json.loads(data)
        if isinstance(told, str):
            return WRONG[told]
        return {"x": np.array(told["numbers"], np.float32), "width": np.int64(told["width"]), "about": told["about"]}

    def postprocess(outputs, item):
        if item.kept["about"] == "refuse":
            raise RejectItem("as it was told")
        return {"share": outputs["mean"] / item.kept["width"]}
"""


@pytest.fixture
def keeping(code: Callable[[str], None], environment: pytest.MonkeyPatch) -> None:
    """Functions whose user code keeps two values."""
    code(KEEPING)
    environment.setenv("KEEP", '["width", "about"]')


def told(numbers: list[float], width: int, about: object) -> bytes:
    return json.dumps({"numbers": numbers, "width": width, "about": about}).encode()


@pytest.mark.parametrize(("way", "more"), [("staged", {}), ("score", {}), ("score", {"isolate": True})])
def test_values_reach_postprocessing_and_the_row(
    keeping: None, request: pytest.FixtureRequest, inbox: Inbox, table: str, way: str, more: dict[str, Any]
) -> None:
    about = {"caption": "Grüße 👋", "tags": ["a", None, True, 0.5]}
    messages = {
        "good": inbox.put("good", told([1, 2], 3, about)),
        "refused": inbox.put("refused", told([1, 2, 3], 4, "refuse")),
        **{name: inbox.put(name, json.dumps(name).encode()) for name in ("array", "missing", "extra")},
        "empty": inbox.put("empty", b""),
    }
    handler = request.getfixturevalue(way)
    done = handler(list(messages.values()), **more)
    failures = done if way == "staged" else done["failures"]

    rows = {row["key"]: row for row in boto3.resource("dynamodb").Table(table).scan()["Items"]}
    assert rows.keys() == {"good", "refused", "empty"}
    assert rows["good"]["prediction"] == {"share": 0.5}
    assert rows["good"]["kept"] == {"width": 3, "about": about}
    assert (rows["refused"]["status"], rows["refused"]["kept"]) == ("REJECTED", {"width": 4, "about": "refuse"})
    assert "kept" not in rows["empty"]
    names = {message["message_id"]: name for name, message in messages.items()}
    assert {names[one["message_id"]]: (one["error"], one["cause"]) for one in failures} == {
        "array": (
            "StageError",
            "preprocess returned ndarray, expected a dict with the inputs and width, about",
        ),
        "missing": ("StageError", "preprocess returned no about, expected all that keep names"),
        "extra": ("StageError", "preprocess returned inputs ['height', 'x'], expected ['x']"),
    }


def test_a_batch_with_as_much_as_can_be_kept_stays_within_the_workflows_limit(
    keeping: None, environment: pytest.MonkeyPatch, load: Callable[[str], Any], inbox: Inbox
) -> None:
    environment.setenv("STAGE_FUNCTION", os.environ["PREPROCESS_FUNCTION"])
    about = "x" * (MAX_KEPT_BYTES - len('{"width": 1, "about": ""}'))
    messages = [inbox.put(f"{'é' * 450}{number:03}", told([1, 2], 1, about)) for number in range(32)]
    response = load("preprocess")({"messages": messages}, Context(600))
    assert [item["kept"]["about"] for item in response["items"]] == [about] * 32
    assert len(json.dumps(response)) <= 180_000


numbers = st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15).filter(lambda n: n == 0 or abs(n) > 1e-120)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(value=values)
def test_any_json_is_kept_as_it_is(value: object) -> None:
    assume(len(json.dumps({"value": value})) <= MAX_KEPT_BYTES)
    inputs, kept = take_kept({"x": 1, "value": value}, ["value"])
    assert inputs == {"x": 1}
    assert kept == {"value": value}
    assert plain(kept_attribute(kept)) == {"value": value}


def test_numpys_values_are_kept_as_numbers_and_lists() -> None:
    returned = {"size": (np.int32(4), np.uint8(3)), "mean": np.float32(0.5), "means": np.array([[1, 2]]), "x": 1}
    _, kept = take_kept(returned, ["size", "mean", "means"])
    assert kept == {"size": [4, 3], "mean": 0.5, "means": [[1, 2]]}


endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"bytes", r"kept\.value is bytes, which is neither text, number, boolean, list nor dict"),
        ({"a": [b"bytes"]}, r"kept\.value\.a\[0\] is bytes"),
        ({1, 2}, "kept.value is set"),
        (np.datetime64("2026-01-01"), "kept.value is date"),
        (float("nan"), "kept.value is nan, expected a finite number"),
        (np.array([np.inf]), r"kept.value\[0\] is inf, expected a finite number"),
        (2**53 + 1, r"kept.value is 9007199254740993, expected at most 2\^53: return such a number as text"),
        ({1: "a"}, "kept.value has the key 1, expected a string that is not empty"),
        ("\ud800", "kept.value is not valid Unicode"),
        (endless, "is nested deeper than 28 levels"),
    ],
)
def test_a_value_that_is_not_json_fails(value: object, says: str) -> None:
    with pytest.raises(StageError, match=f"preprocess returned a value that cannot be kept: .*{says}"):
        take_kept({"value": value}, ["value"])


@pytest.mark.parametrize("character", ["x", "é", "👋"])
def test_values_that_are_too_large_fail(character: str) -> None:
    overhead, width = len('{"text": ""}'), len(json.dumps(character)) - 2
    most = (MAX_KEPT_BYTES - overhead) // width
    assert take_kept({"text": character * most}, ["text"])[1] == {"text": character * most}
    says = r"preprocess returned 2,0\d\d bytes of JSON to keep, expected at most 2,000: text"
    with pytest.raises(StageError, match=says):
        take_kept({"text": character * (most + 1)}, ["text"])


PHOTOGRAPH = np.zeros((300, 400, 3), np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        PHOTOGRAPH,
        {"photographs": [{"first": (PHOTOGRAPH,)}]},
        [[0] * 1_000] * 1_000,
        {"caption": ["x" * 10_000_000]},
        {"x" * 10_000_000: 1},
        np.array([PHOTOGRAPH, None], object),
        dict.fromkeys(map(str, range(100_000))),
    ],
    ids=["array", "nested array", "lists", "text", "key", "array of objects", "dict"],
)
def test_large_values_fail_before_they_are_converted(value: object) -> None:
    says = "preprocess returned over 2,000 bytes of JSON to keep, expected at most 2,000: width, value"
    tracemalloc.start()
    try:
        with pytest.raises(StageError, match=says):
            take_kept({"width": 1, "value": value}, ["width", "value"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
