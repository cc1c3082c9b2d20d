"""Explanations on their way to the row: of three functions and of one, when they are asked for, and never instead."""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.arrays import ArrayStore
from tests.runtime.invocation import Context
from tests.runtime.stages.mean import code, score, staged

from inference_runtime.errors import RetryableError, StageError
from inference_runtime.explanations.explainer import MOST_KEPT_BYTES, Explainer
from inference_runtime.explanations.room import grouped
from inference_runtime.http.requests import outcome
from inference_runtime.tensors.tensor import Tensor, tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_s3 import S3Client

    from conftest import Inbox

SOURCES = Path(__file__).parents[3] / "lambda_src"

__all__ = ["code", "score", "staged"]  # fixtures

DEADLY = """
import os
import onnxruntime as ort

run = ort.InferenceSession.run

def on_a_gpu(self, names, inputs, options=None):
    if len(inputs["x"]) > 1:  # only explanations have several here
        os.kill(os.getpid(), 9)
    return run(self, names, inputs, options)

ort.InferenceSession.run = on_a_gpu
"""
"""A session that dies on what explanations ask for."""

SETTINGS: dict[str, Any] = {
    "when": "always",
    "seconds": 10,
    "output": "mean",
    "target": "number",
    "method": "shapley",
    "parts": "features",
    "options": {"places": [["x", 0], ["x", 1], ["x", 2]], "fill": [0, 1, 2], "names": ["a", "b", "c"]},
    "baseline": "mean",
}


@pytest.fixture
def explaining(code: Any, environment: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Have the handlers that are loaded from now on explain the mean of three numbers."""

    def explaining(**changes: Any) -> None:
        settings = SETTINGS | changes
        (tmp_path / "explanation.json").write_text(json.dumps(settings))
        environment.setenv("EXPLANATION_SETTINGS", "explanation.json")
        environment.setenv("EXPLAIN", settings["when"] if isinstance(settings["when"], str) else "when")

    return explaining


def asking(inbox: Inbox, key: str, body: bytes, asks: str = "true") -> dict[str, Any]:
    """Put an object whose metadata ask for an explanation, and return its message."""
    done = inbox.s3.put_object(Bucket=inbox.bucket, Key=key, Body=body, Metadata={"explain": asks})
    return inbox.message(key, etag=done["ETag"].strip('"'), size=len(body))


def explanations(table: str) -> dict[str, Any]:
    """Return the explanations of all rows that succeeded, None for those without one, and empty the table."""
    rows: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
    for row in rows:
        boto3.resource("dynamodb").Table(table).delete_item(Key={name: row[name] for name in ("object", "version")})
    return {row["key"]: row.get("explanation") for row in rows if row["status"] == "SUCCEEDED"}


@pytest.mark.parametrize("when", ["always", "on_request"])
def test_rows_say_why_whichever_function_answers(
    when: str, explaining: Any, request: pytest.FixtureRequest, inbox: Inbox, table: str
) -> None:
    explaining(when=when)
    messages = [
        asking(inbox, "asks", b"[3, 7, 2]"),
        asking(inbox, "does not", b"[3, 7, 2]", "no"),
        inbox.put("no metadata", b"[0, 1, 2]"),
        asking(inbox, "refused", b"refuse"),
        asking(inbox, "of another shape", b"[7, 8]"),
        asking(inbox, "refused after", b"[-3, -7, -2]"),
    ]
    request.getfixturevalue("staged")(messages)
    found = explanations(table)
    request.getfixturevalue("score")(messages)
    assert explanations(table) == found

    said = found["asks"]
    values = {name: float(value) for name, value in said.pop("values").items()}
    assert values == pytest.approx({"a": 1, "b": 2, "c": 0}, abs=1e-6)  # the distance from the fill, a third of it each
    assert float(said.pop("base")) + math.fsum(values.values()) == pytest.approx(float(said["score"]), abs=1e-5)
    assert said == {"method": "shapley", "score": 4, "baseline": "mean", "runs": 9}
    assert found["of another shape"]["reason"].startswith("ValueError: ")  # which does not cost it the answer
    everywhere = when == "always"
    assert (found["no metadata"] is not None) == (found["does not"] is not None) == everywhere
    assert set(found) == {"asks", "does not", "no metadata", "of another shape"}


def test_the_model_server_of_a_gpu_explains_as_a_function_does(
    explaining: Any, environment: pytest.MonkeyPatch, bucket: str, s3: S3Client, load: Callable[[str], Any]
) -> None:
    explaining()
    items = {"x": np.array([[3, 7, 2], [0, 1, 2]], np.float32)}
    event = ArrayStore(s3, bucket).dump_groups({}, [([5, 3], items)], "inputs", 9999)
    alone = load("infer")(event)
    environment.setenv("GPU_CONCURRENCY", "2")
    environment.syspath_prepend(str(SOURCES))  # the server is another process
    served = load("infer")(event)
    assert type(sys.modules["inference_runtime.handlers.infer"].engine).__name__ == "ModelClient"
    assert served == alone
    assert {each["indices"][0]: each["explanation"]["runs"] for each in served["explanations"]} == {5: 9, 3: 9}


def test_a_model_server_that_dies_of_an_explanation_costs_no_answer(
    explaining: Any,
    environment: pytest.MonkeyPatch,
    bucket: str,
    s3: S3Client,
    load: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    explaining()
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    for name, value in {"GPU_CONCURRENCY": "2", "INFERENCE_ENGINE": "python"}.items():
        environment.setenv(name, value)
    for path in (SOURCES, tmp_path):
        environment.syspath_prepend(str(path))
    items = {"x": np.array([[3, 7, 2]], np.float32)}
    store = ArrayStore(s3, bucket)
    handler, event = load("infer"), store.dump_groups({}, [([5], items)], "inputs", 9999)
    for _ in range(2):  # another process has the model then
        found = handler(event)
        assert store.load(found["groups"][0]["outputs"]["mean"]).tolist() == [4]
        (explained,) = found["explanations"]
        assert explained["explanation"]["reason"].startswith("ModelServerDiedError: the process with the model died")


def test_answers_to_callers_say_why_too(explaining: Any, request: pytest.FixtureRequest, inbox: Inbox) -> None:
    explaining()
    (answer,) = request.getfixturevalue("score")([inbox.put("good", b"[3, 7, 2]")], answers="only")["answers"]
    assert answer["explanation"]["values"] == pytest.approx({"a": 1, "b": 2, "c": 0}, abs=1e-6)


def test_a_response_that_is_too_large_with_its_explanation_goes_without() -> None:
    answer = {"status": "SUCCEEDED", "prediction": {"mean": 4}, "model_version": "m1", "inference": "cpu"}
    result = {"retry": [], "unfinished": [], "failures": [], "answers": [{**answer, "explanation": {"grid": [[1.0]]}}]}
    assert outcome(result)[1]["explanation"] == {"grid": [[1.0]]}
    status, body = outcome(result, most_bytes=80)
    assert (status, body) == (200, {"prediction": {"mean": 4}, "model_version": "m1", "inference": "cpu"})


def test_no_isolated_item_is_explained_by_three_functions_either(
    explaining: Any, environment: pytest.MonkeyPatch, inbox: Inbox, load: Callable[[str], Any]
) -> None:
    explaining()
    environment.setenv("STAGE_FUNCTION", os.environ["PREPROCESS_FUNCTION"])
    preprocess, infer = load("preprocess"), load("infer")
    prepared = preprocess({"messages": [inbox.put("back", b"[3, 7, 2]")], "isolate": True})
    assert [group["explain"] for group in prepared["groups"]] == [[]]
    assert infer({"groups": prepared["groups"]})["explanations"] == []


@pytest.mark.parametrize("when", ["always", "on_request"])
def test_items_that_came_back_are_answered_and_not_explained(
    when: str, explaining: Any, request: pytest.FixtureRequest, inbox: Inbox, table: str, load: Callable[[str], Any]
) -> None:
    explaining(when=when)
    score = request.getfixturevalue("score")
    assert score([asking(inbox, "back", b"[3, 7, 2]")], isolate=True)["succeeded"] == 1
    assert explanations(table) == {"back": None}


def test_no_time_costs_no_answer(
    explaining: Any, request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> None:
    explaining()
    request.getfixturevalue("code")
    infer = load("infer")
    inputs = {"x": {"dtype": "float32", "shape": [1, 3], "data": "AABAQAAA4EAAAABA"}}
    kept = sys.modules["inference_runtime.handlers.infer"]._kept
    assert kept(Context(10), b"a picture") is None  # for which an S3 that hangs would take longer
    assert kept(Context(600), b"a picture").keys() == {"bucket", "key"}
    answer = infer({"groups": [{"indices": [4], "inputs": inputs}]}, Context(0))
    assert answer["groups"][0]["indices"] == [4]
    (said,) = answer["explanations"]
    assert said == {
        "indices": [4],
        "explanation": {"method": "shapley", "reason": "1 runs of the model do not fit into the time"},
    }


@pytest.mark.parametrize("seconds", [0, 600])
def test_explanations_that_find_no_room_cost_no_answer(
    seconds: float, explaining: Any, request: pytest.FixtureRequest, load: Callable[[str], Any]
) -> None:
    explaining()
    request.getfixturevalue("code")
    infer = load("infer")
    x = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    inputs = {"x": {"dtype": "float32", "shape": [1000, 3], "data": base64.b64encode(x.tobytes()).decode()}}
    answer = infer({"groups": [{"indices": list(range(1000)), "inputs": inputs}]}, Context(seconds))
    assert "data" in answer["groups"][0]["outputs"]["mean"]
    assert len(json.dumps(answer)) <= 80_000
    *made, rest = sorted(answer["explanations"], key=lambda each: len(each["indices"]))
    assert [len(each["indices"]) for each in made] == [1] * (1000 - len(rest["indices"]))
    assert ("no room" if seconds else "into the time") in rest["explanation"]["reason"]
    assert (len(made) > 100) == (seconds > 0)


def explainer(*, clock: Callable[[], float] = time.monotonic, **changes: Any) -> Explainer:
    def infer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"].array()
        return tensors_of({"mean": x.reshape(len(x), -1).mean(axis=1), "scores": x})

    return Explainer(infer, SETTINGS | changes, clock)


def test_answers_below_a_confidence_are_explained_and_none_that_another_model_gives() -> None:
    scores = Tensor.of(np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [np.nan, 1, 1]], np.float32))
    outputs = {"scores": scores, "mean": scores}
    unsure = explainer(output="scores", target="class", when=0.8)
    assert unsure.wanted([7, 8, 9, 10], outputs, None) == [0, 2, 3]
    assert unsure.wanted([7, 8, 9, 10], outputs, [8, 9]) == [2]
    cascade = explainer(output="scores", target="class", when=0.8, **{"from": 0.6})
    assert cascade.wanted([7, 8, 9, 10], outputs, None) == [2]
    first = explainer(output="scores", target="class", **{"from": 0.6})
    assert first.wanted([7, 8, 9, 10], outputs, None) == [1, 2]


def test_the_class_that_is_explained_is_the_answer() -> None:
    row, scores = np.array([[0.1, 0.7, 0.2]], np.float32), np.array([[0.1, 0.7, 0.2]], np.float32)
    said = explainer(output="scores", target="class").explained(tensors_of({"x": row}), Tensor.of(scores), 1.0)
    assert said["class_index"] == 1
    assert said["score"] == pytest.approx(0.7)


def test_the_time_is_shared_and_large_inputs_are_not_kept() -> None:
    batch = explainer().begin()
    x = np.zeros((3, MOST_KEPT_BYTES // 8), np.float32)
    batch.add([4, 5, 6], tensors_of({"x": x}), {"mean": Tensor.of(x[:, 0])})
    found = batch.made(0.0)
    assert set(found) == {4, 5, 6}
    assert "too large" in found[6]["reason"]
    assert "do not fit into the time" in found[4]["reason"]


@given(most=st.integers(-100, 4000), items=st.integers(1, 12), same=st.booleans(), draws=st.booleans())
def test_explanations_take_no_more_bytes_than_there_are(most: int, items: int, same: bool, draws: bool) -> None:
    options = {"input": "x", "layout": "HW", "fill": [0], "grid": 8}
    batch = explainer(parts="cells", method="occlusion", options=options, heat_map=draws).begin()
    x = np.arange(20 * items, dtype=np.float32).reshape(-1, 4, 5) % (20 if same else 900)
    batch.add(list(range(items)), tensors_of({"x": x}), {"mean": Tensor.of(x.mean(axis=(1, 2)))})
    found = batch.made(5.0, lambda data: {"bucket": "b" * 63, "key": f"tensors/{'0' * 64}"}, most)
    if found:
        said = grouped(found)
        assert len(json.dumps(said)) <= most
        assert sorted(index for each in said for index in each["indices"]) == list(range(items))


def test_a_picture_that_is_not_kept_costs_no_explanation() -> None:
    def fail(data: bytes) -> dict[str, str]:
        raise RetryableError("S3 is away")

    options = {"input": "x", "layout": "HW", "fill": [0], "grid": 8}
    drawing = explainer(parts="cells", method="occlusion", options=options, heat_map=True)
    kept: list[bytes] = []
    for keep, drawn in [(fail, None), (lambda data: kept.append(data) or {"bucket": "b", "key": "k"}, "s3://b/k")]:
        batch = drawing.begin()
        x = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
        batch.add([0], tensors_of({"x": x}), {"mean": Tensor.of(x.mean(axis=(1, 2)))})
        found = batch.made(5.0, keep)[0]
        assert found["runs"] == 25
        assert found.get("heat_map") == drawn
    assert kept[0].startswith(b"\x89PNG")


def test_pictures_take_no_time_from_explanations() -> None:
    now = [0.0]

    def keep(data: bytes) -> dict[str, str]:
        now[0] += 4
        return {"bucket": "b", "key": "k"}

    options = {"input": "x", "layout": "HW", "fill": [0], "grid": 8}
    drawing = explainer(
        clock=lambda: now[0], parts="cells", method="occlusion", options=options, heat_map=True, seconds=10
    )
    batch = drawing.begin()
    x = np.arange(96, dtype=np.float32).reshape(4, 4, 6)
    batch.add([0, 1, 2, 3], tensors_of({"x": x}), {"mean": Tensor.of(x.mean(axis=(1, 2)))})
    found = batch.made(60.0, keep)
    assert [said["runs"] for said in found.values()] == [25] * 4
    assert ["heat_map" in said for said in found.values()] == [True, True, True, False]


def test_no_run_begins_that_would_take_more_than_the_time() -> None:
    now, batches = [0.0], list[int]()

    def infer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        now[0] += 8 * len(inputs["x"])
        batches.append(len(inputs["x"]))
        return tensors_of({"mean": inputs["x"].array().mean(axis=1)})

    batch = Explainer(infer, SETTINGS | {"seconds": 300}, clock=lambda: now[0]).begin()
    x = tensors_of({"x": np.arange(21, dtype=np.float32).reshape(7, 3)})
    batch.add(list(range(7)), x, infer(x), seconds=now[0])
    found = batch.made((57 - now[0]) / 2)  # of an invocation of a minute
    assert {said["reason"] for said in found.values()} == {"1 runs of the model do not fit into the time"}
    assert batches == [7]
    assert now[0] == 56
    batch.made(300.0)
    assert 56 < now[0] <= 56 + 300


def test_no_picture_is_begun_that_would_take_more_than_the_time() -> None:
    options = {"input": "x", "layout": "HW", "fill": [0], "grid": 2}
    drawing = explainer(clock=lambda: 0.0, parts="cells", method="occlusion", options=options, heat_map=True, seconds=1)
    kept: list[bytes] = []
    for side, answer, times in [(4, {"bucket": "b", "key": "k"}, 2), (4, None, 1), (512, None, 0)]:
        batch, x = drawing.begin(), np.ones((2, side, side), np.float32)
        batch.add([0, 1], tensors_of({"x": x}), {"mean": Tensor.of(x.mean(axis=(1, 2)))})
        found = batch.made(60.0, lambda data, answer=answer: kept.append(data) or answer)
        assert ["heat_map" in said for said in found.values()] == [answer is not None] * 2
        assert len(kept) == times
        kept.clear()


@pytest.mark.parametrize("missing", ["when", "seconds", "output", "target", "method", "parts", "options", "baseline"])
def test_settings_that_lack_something_fail_at_the_start(missing: str) -> None:
    with pytest.raises(StageError, match=f"have no '{missing}'"):
        Explainer(lambda inputs: {}, {name: value for name, value in SETTINGS.items() if name != missing})
