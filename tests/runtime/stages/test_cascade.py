"""Postprocessing in a cascade: what the first model is unsure of goes on, and the row keeps both answers."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.runtime.arrays import store as store_of

from inference_runtime.errors import RetryableError
from inference_runtime.stages.first_answers import MAX_ANSWER_BYTES, answer, first_attribute
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from conftest import Inbox

one, two = np.array([1.5], np.float32), np.array([2.5], np.float32)
nan = np.array([np.nan], np.float32)
NOTHING = {"retry": [], "failures": [], "succeeded": 0, "rejected": 0, "failed": 0, "unsure": []}
FIRST = {"route": "small", "row_version": "cascade-1"}
SECOND = {"route": "large", "model_version": "m2", "inference": "gpu"}


@pytest.fixture
def item(inbox: Inbox) -> Any:
    return lambda key, **entry: Item.from_message(inbox.message(key, **entry)).to_json()


def unsure(*indices: int) -> list[dict[str, Any]]:
    return [{"index": index, "confidence": 0.4} for index in indices]


def by_message(done: dict[str, Any]) -> dict[str, Any]:
    return {entry["message_id"]: entry["answer"] for entry in done["unsure"]}


def test_the_sure_get_rows_and_the_unsure_answers(configure: Any, rows: Any, item: Any) -> None:
    sure, not_sure = item("sure"), item("unsure")
    confidences = [{"index": 0, "confidence": 0.987654}, {"index": 1, "confidence": 0.4}]
    done = configure()([(sure, one), (not_sure, two)], **FIRST, variant="b", confidences=confidences, unsure=unsure(1))
    assert done == {
        **NOTHING,
        "succeeded": 1,
        "unsure": [
            {
                "message_id": not_sure["message_id"],
                "answer": {
                    "route": "small",
                    "row_version": "cascade-1",
                    "model_version": "m1",
                    "inference": "cpu",
                    "confidence": 0.4,
                    "prediction": {"M": {"y": {"L": [{"N": "2.5"}]}}},
                },
            }
        ],
    }
    assert rows().keys() == {"sure"}
    row = rows()["sure"]
    assert row["version"] == "null#cascade-1"
    assert (row["route"], row["variant"], row["confidence"]) == ("small", "b", Decimal("0.987654"))
    assert "first" not in row


def test_the_second_row_keeps_both_answers(configure: Any, rows: Any, item: Any) -> None:
    batch, handler = [item("a"), item("b")], configure()
    first = by_message(handler([(batch[0], one), (batch[1], one)], **FIRST, unsure=unsure(0)))
    done = handler([(batch[0], two)], **SECOND, first=first, row_version="cascade-2")
    assert done == {**NOTHING, "succeeded": 1}
    row = rows()["a"]
    assert row["version"] == rows()["b"]["version"] == "null#cascade-1"  # its first answer's
    assert (row["route"], row["model_version"], row["inference"]) == ("large", "m2", "gpu")
    assert row["prediction"] == {"y": [Decimal("2.5")]}
    assert row["first"] == {
        "route": "small",
        "model_version": "m1",
        "inference": "cpu",
        "confidence": Decimal("0.4"),
        "prediction": {"y": [Decimal("1.5")]},
    }


@pytest.mark.parametrize(
    ("result", "more", "status", "reason"),
    [
        (None, {"failed": [{"index": 0, "reason": "no GPU within 20 minutes"}]}, "FAILED", "no GPU within 20 minutes"),
        (nan, {}, "FAILED", "model output 'y' has 1 values that are NaN or infinite"),
        ("object no longer exists", {}, "REJECTED", "object no longer exists"),
    ],
)
def test_a_second_answer_that_never_came_leaves_the_first(
    configure: Any, rows: Any, item: Any, result: Any, more: Any, status: str, reason: str
) -> None:
    only, handler = item("a"), configure()
    first = by_message(handler([(only, one)], **FIRST, unsure=unsure(0)))
    done = handler([(only, result)], **SECOND, first=first, **more)
    assert done == {**NOTHING, status.lower(): 1}
    row = rows()["a"]
    assert (row["status"], row["reason"]) == (status, reason)
    assert row["version"] == "null#cascade-1"
    assert row["first"]["prediction"] == {"y": [Decimal("1.5")]}
    assert handler([(only, two)], **SECOND, first=first)["succeeded"] == 1  # from the dead-letter queue
    assert rows()["a"]["status"] == "SUCCEEDED"
    assert handler([(only, result)], **SECOND, first=first, **more) == NOTHING
    assert rows()["a"]["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("code", "result", "says"),
    [
        ("return {}", nan, "NaN"),
        ("return [1]", one, "returned list, expected a dict"),
        ("from inference_runtime import RejectItem; raise RejectItem('not a cat ' + 'ß' * 1000)", one, "not a cat ßß"),
    ],
)
def test_what_the_first_model_got_wrong_is_for_the_second(
    configure: Any, rows: Any, item: Any, code: str, result: np.ndarray, says: str
) -> None:
    done = configure(f"def function(outputs, item): {code}")([(item("a"), result)], **FIRST, unsure=unsure(0))
    [entry] = done["unsure"]
    assert {**done, "unsure": []} == NOTHING
    assert says in entry["answer"]["reason"]
    assert "prediction" not in entry["answer"]
    assert len(json.dumps(entry["answer"])) <= MAX_ANSWER_BYTES
    assert rows() == {}
    first = {entry["message_id"]: entry["answer"]}
    assert configure()([(item("b"), one)], **SECOND, first=first)["succeeded"] == 1


def test_what_has_no_outputs_is_not_unsure(configure: Any, rows: Any, item: Any) -> None:
    lost, bad = item("lost"), item("bad")
    done = configure()([(lost, None), (bad, "object is empty"), (item("good"), one)], unsure=unsure(0, 1))
    assert failed(done) == [lost["message_id"]]
    assert {**done, "failures": []} == {**NOTHING, "succeeded": 1, "rejected": 1}
    assert rows()["bad"]["reason"] == "object is empty"


def failed(done: dict[str, Any]) -> list[str]:
    return [failure["message_id"] for failure in done["failures"]]


def test_a_bug_fails_also_where_the_model_is_unsure(configure: Any, rows: Any, item: Any) -> None:
    only = item("a")
    done = configure("def function(outputs, item): return outputs['z']")([(only, one)], unsure=unsure(0))
    assert failed(done) == [only["message_id"]]
    assert {**done, "failures": []} == NOTHING


def test_only_what_is_asked_for_is_handled(configure: Any, rows: Any, item: Any) -> None:
    batch = [(item("a"), one), (item("b"), two), (item("c"), "why"), (item("d"), None), (item("e"), "because")]
    handler = configure()
    assert handler(batch, only=[1, 2]) == {**NOTHING, "succeeded": 1, "rejected": 1}
    assert rows().keys() == {"b", "c"}
    assert handler(batch, only=[]) == NOTHING
    assert failed(handler(batch, only=[3], failed=[{"index": 0, "reason": "x"}])) == [batch[3][0]["message_id"]]
    nulls = dict.fromkeys(("only", "failed", "unsure", "confidences", "first", "route", "variant", "row_version"))
    done = handler(batch, **nulls)
    assert failed(done) == [batch[3][0]["message_id"]]
    assert {**done, "failures": []} == {**NOTHING, "succeeded": 1, "rejected": 1}
    assert not {"route", "variant", "confidence", "first"} & rows()["a"].keys()


def test_outputs_are_better_than_a_failure(configure: Any, rows: Any, item: Any) -> None:
    failed = [{"index": 0, "reason": "gave up"}, {"index": 1, "reason": "gave up " * 100}]
    done = configure()([(item("a"), one), (item("b"), None)], failed=failed)
    assert done == {**NOTHING, "succeeded": 1, "failed": 1}
    assert rows()["b"]["reason"] == ("gave up " * 100)[:500]


def test_large_predictions_travel_by_claim_check(configure: Any, rows: Any, item: Any) -> None:
    code = (
        "def function(outputs, item): return {'text': 'ß' * 2000, 'bytes': bytes(range(256)), 'list': [b'a', 1, None]}"
    )
    only, handler = item("a"), configure(code)
    first = by_message(handler([(only, one)], **FIRST, unsure=unsure(0)))
    [given] = first.values()
    assert given["prediction"].keys() == {"bucket", "key"}
    assert len(json.dumps(given).encode()) <= MAX_ANSWER_BYTES
    handler([(only, one)], **SECOND, first=first)
    assert rows()["a"]["first"]["prediction"] == rows()["a"]["prediction"]
    assert rows()["a"]["prediction"]["bytes"].value == bytes(range(256))


def test_a_first_prediction_that_expired_is_named(configure: Any, rows: Any, item: Any, s3: S3Client) -> None:
    only, handler = item("a"), configure("def function(outputs, item): return {'text': 'x' * 2000}")
    first = by_message(handler([(only, one)], **FIRST, unsure=unsure(0)))
    [given] = first.values()
    s3.delete_object(Bucket=given["prediction"]["bucket"], Key=given["prediction"]["key"])
    assert handler([(only, one)], **SECOND, first=first)["succeeded"] == 1
    assert "prediction" not in rows()["a"]["first"]
    assert rows()["a"]["first"]["reason"] == "the prediction is no longer in the work bucket"
    given["prediction"]["bucket"] = "no-such-bucket"
    with pytest.raises(RetryableError, match="NoSuchBucket"):
        handler([(only, one)], **SECOND, first=first)


@pytest.mark.parametrize(("size", "fits"), [(140_000, True), (160_000, False)])
def test_a_row_that_cannot_hold_both_says_so(configure: Any, rows: Any, item: Any, size: int, fits: bool) -> None:
    only, handler = item("a"), configure(f"def function(outputs, item): return {{'text': 'x' * {size}}}")
    first = by_message(handler([(only, one)], **FIRST, unsure=unsure(0)))
    assert handler([(only, one)], **SECOND, first=first)["succeeded"] == 1
    row = rows()["a"]
    assert len(row["prediction"]["text"]) == size
    assert ("prediction" in row["first"]) == fits
    assert row["first"].get("reason") == (
        None if fits else f"both predictions are {2 * (size + 8):,} bytes, at most 300,000 fit a row"
    )


@pytest.mark.parametrize("order", list(itertools.permutations(["success", "failure", "other failure"])))
def test_in_any_order_a_success_stays(configure: Any, rows: Any, item: Any, order: tuple[str, ...]) -> None:
    """Two workflows may have the same event: it was delivered twice, and one of them gave up."""
    only, handler = item("a"), configure()
    for outcome in order:
        if outcome == "success":
            handler([(only, one)])
        else:
            handler([(only, None)], failed=[{"index": 0, "reason": outcome}])
    assert rows()["a"]["status"] == "SUCCEEDED"
    assert "reason" not in rows()["a"]


def test_a_newer_event_has_the_row_even_if_it_failed(configure: Any, rows: Any, item: Any) -> None:
    """Without versioning the object is another one now: the old prediction would be wrong for it."""
    old, new, handler = item("a"), item("a"), configure()
    handler([(old, one)])
    handler([(new, None)], failed=[{"index": 0, "reason": "gave up"}])
    handler([(old, two)])
    assert (rows()["a"]["status"], rows()["a"]["sequencer"]) == ("FAILED", new["sequencer"])


def test_escalations_are_counted_in_a_cascade_only(
    configure: Any, item: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = configure()
    handler([(item("a"), one), (item("b"), one), (item("c"), one)], unsure=unsure(0, 2))
    handler([(item("d"), one)], unsure=[])
    handler([(item("e"), one)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [(emf.get("Escalated"), emf["Succeeded"]) for emf in found] == [([2], [1]), ([0], [1]), (None, [1])]


predictions = st.dictionaries(
    st.text(min_size=1, max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=900) | st.binary(max_size=900),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
        max_leaves=10,
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(predictions, st.none() | st.text(max_size=500))
def test_any_prediction_arrives_as_it_was_in_an_answer_of_bounded_size(
    bucket: str, prediction: dict[str, Any], reason: str | None
) -> None:
    store = store_of(boto3.client("s3"), bucket)
    attribute = prediction_attribute(prediction)
    about = {
        "route": "small",
        "row_version": "f" * 12,
        "model_version": "a" * 12,
        "inference": "cpu",
        "confidence": 0.5,
    }
    given_back = answer(store, **about, prediction=attribute, reason=reason)
    text = json.dumps(given_back)  # with escapes: the longest form that it can have on its way
    assert len(text) <= MAX_ANSWER_BYTES
    assert first_attribute(store, json.loads(text), attribute)["M"]["prediction"] == attribute


def test_the_drift_monitor_counts_what_the_first_model_passes_on_and_nothing_of_the_second(
    windows: str, configure: Any, item: Any, environment: pytest.MonkeyPatch, dynamodb: DynamoDBClient
) -> None:
    def counts() -> dict[str, int]:
        found = dynamodb.scan(TableName=windows, ConsistentRead=True)["Items"]
        return {
            name: int(value["N"]) for each in found for name, value in each.items() if name.startswith(("n_", "o0"))
        }

    environment.setenv("DRIFT_OUTPUTS", json.dumps([["y", "feature 0", [2.0]]]))
    batch, handler = [item("sure"), item("unsure"), item("broken")], configure()
    first = by_message(handler([(batch[0], one), (batch[1], two), (batch[2], nan)], **FIRST, unsure=unsure(1)))
    assert counts() == {"n_objects": 2, "n_escalated": 1, "n_failed": 1, "o0_0": 1, "o0_1": 1}
    handler([(batch[1], two)], **SECOND, first=first)
    assert counts()["n_objects"] == 2
