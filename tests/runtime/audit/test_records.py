"""Records say what happened and to nobody whom; hashes survive what DynamoDB does to numbers."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.audit.answers import answer_sha256, with_answer_hash
from inference_runtime.audit.records import files, lines, model_change, pseudonym, record
from inference_runtime.stages.rows import prediction_attribute

EVENT = {
    "id": "of EventBridge",
    "time": "2026-11-28T23:59:59Z",
    "detail-type": "Inference Result",
    "detail": {
        "event_id": "of the stream",
        "id": "plain hash",
        "object": "inbox/jane.jpg",
        "bucket": "inbox",
        "key": "jane.jpg",
        "version": "v1#0123456789ab",
        "status": "SUCCEEDED",
        "route": "",
        "model_version": "0123456789ab",
        "answer_sha256": "f" * 64,
    },
}
SCALARS = st.none() | st.booleans() | st.text() | st.binary() | st.floats(-1e100, 1e100) | st.integers()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_a_record_of_an_answer_has_no_name_of_the_object() -> None:
    told = record({"pipeline": "photos/Photos", "event": EVENT}, b"secret")
    assert told == {
        "record": told["record"],
        "time": "2026-11-28T23:59:59Z",
        "type": "Inference Result",
        "pipeline": "photos/Photos",
        "version": "v1#0123456789ab",
        "status": "SUCCEEDED",
        "model_version": "0123456789ab",
        "object": pseudonym(b"secret", "inbox/jane.jpg"),
        "answer": pseudonym(b"secret", "f" * 64),
    }
    assert told["object"] != pseudonym(b"another", "inbox/jane.jpg")


def test_an_answer_that_the_pipe_sends_again_is_the_same_record() -> None:
    first, second = (record({"pipeline": "p", "event": {**EVENT, "id": each}}, b"") for each in ("1", "2"))
    assert first == second
    verdict = {**EVENT, "detail-type": "Verdict", "detail": {}}
    one, other = (record({"pipeline": "p", "event": {**verdict, "id": each}}, b"") for each in ("1", "2"))
    assert one["record"] != other["record"]
    verdict["detail"] = {"event_id": "m1 2026-11-28T23:00:00+00:00", "verdict": "DRIFT"}
    one, other = (record({"pipeline": "p", "event": {**verdict, "id": each}}, b"") for each in ("1", "2"))
    assert one == other


@given(
    bucket=st.from_regex(r"[a-z][a-z0-9.-]{2,20}[g-z]", fullmatch=True),
    key=st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"in/{text}~"),
    answer=st.text(min_size=1).map(lambda text: f"~{text}~"),
)
def test_no_name_of_an_object_gets_into_a_record_however_hostile_it_is(bucket: str, key: str, answer: str) -> None:
    secrets = {"object": f"{bucket}/{key}", "bucket": bucket, "key": key, "answer_sha256": answer}
    detail = EVENT["detail"] | secrets | {"id": f"{bucket}~", "reason": key, "prediction": answer}
    told = record({"pipeline": "p", "event": {**EVENT, "detail": detail}}, b"secret")
    strings = [value for value in told.values() if isinstance(value, str)]
    assert len(strings) == len(told)
    assert not [value for value in strings for name in secrets.values() if name in value]


def decided(by: str, reason: str) -> dict[str, object]:
    history = [{"S": json.dumps({"by": by, "reason": each, "evidence": {"errors": {}}})} for each in ("first", reason)]
    detail = {"event_id": "e", "pipeline": "p", "status": "ABORTED", "share": "0", "history": history}
    told = record({"pipeline": "p", "event": {**EVENT, "detail-type": "Release Decision", "detail": detail}}, b"secret")
    return told["detail"]


def test_a_share_that_somebody_moves_by_hand_is_recorded_without_a_decision() -> None:
    detail = {"event_id": "e", "status": "RUNNING", "share": "100", "history": ""}
    told = record({"pipeline": "p", "event": {**EVENT, "detail-type": "Release Decision", "detail": detail}}, b"")
    assert told["detail"] == {"event_id": "e", "status": "RUNNING", "share": "100", "decision": {}}


def test_a_record_of_a_decision_has_the_last_one_with_its_evidence() -> None:
    assert decided("judge", "it is slow") == {
        "event_id": "e",
        "pipeline": "p",
        "status": "ABORTED",
        "share": "0",
        "decision": {"by": "judge", "reason": "it is slow", "evidence": {"errors": {}}},
    }


@given(name=st.text(min_size=4).filter(lambda text: not set(text) <= set("0123456789abcdef")))
def test_what_an_operator_writes_is_a_hash_in_the_record(name: str) -> None:
    told = decided("operator", f"asked for by {name}")
    assert told["decision"]["reason"] == pseudonym(b"secret", f"asked for by {name}")
    assert "asked for" not in lines([told]).decode()


def request(**changes: object) -> dict[str, object]:
    models = {"main": {"model": "tiny", "version": "2", "artifact": "f2"}}
    asked = {"StackId": "arn:stack", "LogicalResourceId": "Models", "RequestId": "r", "RequestType": "Update"}
    return {**asked, "ResourceProperties": {"Pipeline": "p", "Models": models}, **changes}


def test_a_change_of_models_says_what_was_before() -> None:
    old = {"main": {"model": "tiny", "version": "1", "artifact": "f1"}}
    message = model_change(request(OldResourceProperties={"Models": old}), "2026-11-28T23:59:59+00:00")
    told = record(message, b"")
    assert (told["type"], told["pipeline"], told["time"]) == ("Model Change", "p", "2026-11-28T23:59:59+00:00")
    assert told["detail"]["before"] == old
    assert told["detail"]["models"]["main"]["version"] == "2"
    assert record(model_change(request(), "later"), b"")["record"] == told["record"]
    assert model_change(request(), "now")["event"]["detail"]["before"] == {}


def test_a_deployment_that_leaves_the_models_alone_is_no_change() -> None:
    same = request()["ResourceProperties"]
    assert model_change(request(OldResourceProperties=same), "now") is None


def test_records_are_in_one_file_for_each_pipeline_and_day_in_any_order() -> None:
    told = [
        {"record": str(number), "pipeline": pipeline, "time": f"2026-11-2{day}T00:00:00Z"}
        for number, (pipeline, day) in enumerate([("a/b", 7), ("a/b", 7), ("a/b", 8), ("c", 7)])
    ]
    found = files([*told, told[0]])
    assert [key.rpartition("/")[0] for key in found] == [
        "records/pipeline=a.b/date=2026-11-27",
        "records/pipeline=a.b/date=2026-11-28",
        "records/pipeline=c/date=2026-11-27",
    ]
    assert files(reversed(told)) == found
    assert [json.loads(line) for line in lines(told).splitlines()] == told


@settings(max_examples=40)
@given(value=st.dictionaries(st.text(min_size=1), VALUES, max_size=4))
def test_the_hash_does_not_depend_on_spelling_or_order(value: dict[str, object]) -> None:
    try:
        attribute = prediction_attribute(value)
    except Exception:
        return

    def stored(one: dict[str, object]) -> dict[str, object]:
        [(kind, inner)] = one.items()
        if kind == "N":
            return {kind: f"{Decimal(str(inner)):f}"} if abs(Decimal(str(inner))) < 10**30 else one
        if kind == "L":
            return {kind: [stored(each) for each in inner]}
        if kind == "M":
            return {kind: {name: stored(inner[name]) for name in reversed(inner)}}
        return one

    assert answer_sha256(stored(attribute)) == answer_sha256(attribute)


def test_another_answer_has_another_hash() -> None:
    one = prediction_attribute({"label": "cat", "scores": np.array([0.5, 0.25])})
    other = prediction_attribute({"label": "cat", "scores": np.array([0.5, 0.250001])})
    assert answer_sha256(one) != answer_sha256(other)
    assert with_answer_hash({"status": {"S": "REJECTED"}}) == {"status": {"S": "REJECTED"}}
    assert with_answer_hash({"prediction": one})["answer_sha256"] == {"S": answer_sha256(one)}
