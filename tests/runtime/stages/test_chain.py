"""All three stages on an embedded AWS: one after the other, and fused."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_dynamodb import DynamoDBClient

    from conftest import Inbox

COLOURS = ["red", "green", "blue"]
BEFORE = "inference_runtime.stages.builtin.image:image_preprocessor"
AFTER = "inference_runtime.stages.builtin.classification:classification_postprocessor"


@pytest.fixture
def colour_model(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    """A model whose logits are the mean of each channel: it tells colours apart."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    (tmp_path / "model").mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "model" / "model.onnx",
    )
    environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    environment.setenv("MODEL_VERSION", "m1")
    environment.setenv(
        "MODEL_INPUTS", json.dumps([{"name": "image", "dtype": "uint8", "shape": ["batch", 224, 224, 3]}])
    )


@pytest.fixture
def counts(windows: str, dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Watch the colours for drift, and return how to read the counts of all windows."""
    outputs = [["logits", "label", [0.5, 1.5]], ["logits", "confidence", [0.9]]]
    environment.setenv("DRIFT_OUTPUTS", json.dumps(outputs))
    environment.setenv("DRIFT_INPUTS", json.dumps([["image", "brightness", [60, 100]], ["image", "sharpness", [0.5]]]))

    def read() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in dynamodb.scan(TableName=windows, ConsistentRead=True)["Items"]:
            assert item["model"]["S"] == "m1#baseline"
            assert item["started_at"]["S"].endswith("T00:00:00+00:00")
            assert int(item["expires_at"]["N"]) > 0
            for name, value in item.items():
                if name.startswith(("n_", "o", "i")):
                    found[name] = found.get(name, 0) + int(value["N"])
        return found

    return read


@pytest.fixture
def staged(
    colour_model: None, bucket: str, table: str, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> Callable[[list[Any]], dict[str, Any]]:
    """Pass messages through the three handlers as the workflow does."""
    environment.setenv("STAGE_FUNCTION", BEFORE)
    environment.setenv("STAGE_OPTIONS", json.dumps({"size": 224}))
    preprocess = load("preprocess")
    infer = load("infer")
    environment.setenv("STAGE_FUNCTION", AFTER)
    environment.setenv("STAGE_OPTIONS", json.dumps({"labels": COLOURS, "top": 2}))
    postprocess = load("postprocess")

    def run(messages: list[Any]) -> dict[str, Any]:
        def call(handler: Callable[[Any], Any], event: Any) -> Any:
            return json.loads(json.dumps(handler(json.loads(json.dumps(event)))))

        prepared = call(preprocess, {"messages": messages})
        inferred = call(infer, {"groups": prepared["groups"]})
        done = call(
            postprocess,
            {
                "items": prepared["items"],
                "rejected": prepared["rejected"],
                "groups": inferred["groups"],
                "inference": inferred["inference"],
                "model_version": inferred["model_version"],
            },
        )
        assert done.pop("unsure") == []
        return {
            **done,
            "retry": prepared["retry"] + done["retry"],
            "failures": prepared["failed"] + done["failures"],
            "unfinished": prepared["unfinished"],
        }

    return run


@pytest.fixture
def fused(
    colour_model: None, bucket: str, table: str, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> Callable[[list[Any]], dict[str, Any]]:
    """Pass messages through the one handler as the workflow does."""
    environment.delenv("WORK_BUCKET")
    environment.setenv("PREPROCESS_FUNCTION", BEFORE)
    environment.setenv("PREPROCESS_OPTIONS", json.dumps({"size": 224}))
    environment.setenv("POSTPROCESS_FUNCTION", AFTER)
    environment.setenv("POSTPROCESS_OPTIONS", json.dumps({"labels": COLOURS, "top": 2}))
    score = load("fused")
    return lambda messages: json.loads(json.dumps(score(json.loads(json.dumps({"messages": messages})))))


NOTHING = {"retry": [], "failures": [], "unfinished": []}


@pytest.fixture(params=["staged", "fused"])
def chain(request: pytest.FixtureRequest) -> Callable[[list[Any]], dict[str, Any]]:
    return request.getfixturevalue(request.param)


def photo(colour: str, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (320, 240), colour).save(stream, kind)
    return stream.getvalue()


def rows(dynamodb: DynamoDBClient, table: str) -> dict[str, dict[str, Any]]:
    found = dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]
    return {row["key"]["S"]: row for row in found}


def test_photographs_become_labels(chain: Any, inbox: Inbox, dynamodb: DynamoDBClient, table: str) -> None:
    messages = [inbox.put(f"{colour}.jpg", photo(colour)) for colour in COLOURS]

    assert chain(messages) == {**NOTHING, "succeeded": 3, "rejected": 0, "failed": 0}

    found = rows(dynamodb, table)
    assert {key: row["prediction"]["M"]["label"]["S"] for key, row in found.items()} == {
        "red.jpg": "red",
        "green.jpg": "green",
        "blue.jpg": "blue",
    }
    row = found["red.jpg"]
    assert row["object"]["S"] == f"{inbox.bucket}/red.jpg"
    assert row["version"]["S"] == "null#m1"
    assert row["status"]["S"] == "SUCCEEDED"
    assert row["inference"]["S"] == "cpu"
    assert 0.99 < float(row["prediction"]["M"]["score"]["N"]) <= 1
    assert len(row["prediction"]["M"]["top"]["L"]) == 2


def test_a_bad_object_does_not_take_its_batch_along(
    chain: Any, inbox: Inbox, dynamodb: DynamoDBClient, table: str
) -> None:
    good = inbox.put("good.jpg", photo("red"))
    bad = {
        "empty.jpg": inbox.put("empty.jpg", b""),
        "text.jpg": inbox.put("text.jpg", b"no image at all"),
        "cut.jpg": inbox.put("cut.jpg", photo("green")[:-400]),
        "deleted.jpg": inbox.message("deleted.jpg"),
    }
    malformed = {"message_id": "malformed", "time": "2026-01-02T03:04:05Z", "detail": {"bucket": 7}}

    done = chain([malformed, *bad.values(), good])

    assert [failure["message_id"] for failure in done.pop("failures")] == ["malformed"]
    assert done == {"retry": [], "unfinished": [], "succeeded": 1, "rejected": 4, "failed": 0}
    found = rows(dynamodb, table)
    assert found.pop("good.jpg")["status"]["S"] == "SUCCEEDED"
    assert {key: row["status"]["S"] for key, row in found.items()} == dict.fromkeys(bad, "REJECTED")
    assert found["empty.jpg"]["reason"]["S"] == "object is empty"
    assert found["text.jpg"]["reason"]["S"] == "not a JPEG, PNG, WEBP, GIF, BMP or TIFF image"
    assert "truncated" in found["cut.jpg"]["reason"]["S"]
    assert found["deleted.jpg"]["reason"]["S"] == "object no longer exists"


def test_delivered_again_and_out_of_order_there_is_one_row_and_the_newest_wins(
    chain: Any, inbox: Inbox, dynamodb: DynamoDBClient, table: str
) -> None:
    older = inbox.put("a.jpg", photo("red"))
    first = chain([older, older])
    newer = inbox.put("a.jpg", photo("blue"))

    assert first["succeeded"] == 1
    assert chain([newer])["succeeded"] == 1
    superseded = {**NOTHING, "succeeded": 0, "rejected": 0, "failed": 0}
    assert chain([older]) == superseded  # IfMatch fails
    assert chain([newer])["retry"] == []
    assert len(dynamodb.scan(TableName=table)["Items"]) == 1
    assert rows(dynamodb, table)["a.jpg"]["prediction"]["M"]["label"]["S"] == "blue"


def test_the_drift_monitor_counts_each_new_row_once(
    counts: Callable[[], dict[str, Any]], chain: Any, inbox: Inbox
) -> None:
    messages = [
        inbox.put("red.jpg", photo("red")),
        inbox.put("red too.png", photo("red", "PNG")),
        inbox.put("blue.jpg", photo("blue")),
        inbox.put("white.png", photo("white", "PNG")),
        inbox.put("text.jpg", b"no image at all"),
    ]
    expected = {
        "n_objects": 4,
        "n_rejected": 1,
        "o0_0": 3,  # red; of white, the first class
        "o0_2": 1,
        "o1_0": 1,
        "o1_1": 3,
        "i0_1": 3,
        "i0_2": 1,
        "i1_0": 4,
    }
    chain(messages)
    assert counts() == expected
    chain(messages)  # delivered again
    assert counts() == expected
    chain([inbox.put("green.jpg", photo("green"))])
    assert counts()["n_objects"] == 5


def test_a_drift_table_that_takes_nothing_fails_no_batch(
    counts: Callable[[], dict[str, Any]], windows: str, chain: Any, inbox: Inbox, dynamodb: DynamoDBClient
) -> None:
    dynamodb.delete_table(TableName=windows)
    assert chain([inbox.put("red.jpg", photo("red"))]) == {**NOTHING, "succeeded": 1, "rejected": 0, "failed": 0}


def test_a_large_batch_keeps_its_order(chain: Any, inbox: Inbox, dynamodb: DynamoDBClient, table: str) -> None:
    keys = {f"{number}.png": COLOURS[number % 3] for number in range(21)}

    done = chain([inbox.put(key, photo(colour, "PNG")) for key, colour in keys.items()])

    assert done["succeeded"] == 21
    found = rows(dynamodb, table)
    assert {key: row["prediction"]["M"]["label"]["S"] for key, row in found.items()} == keys


@pytest.mark.parametrize(
    "key",
    ["with space.jpg", "a+b.jpg", "100%.jpg", "%2B%20.jpg", "a&b=c?d#e.jpg", "ünï/日本語/🐈.jpg", "ß" * 510 + ".jpg"],
)
def test_any_key_works(staged: Any, inbox: Inbox, dynamodb: DynamoDBClient, table: str, key: str) -> None:
    assert len(key.encode()) <= 1024
    assert staged([inbox.put(key, photo("green"))])["succeeded"] == 1
    assert rows(dynamodb, table)[key]["prediction"]["M"]["label"]["S"] == "green"


def test_the_work_bucket_holds_the_input_that_the_model_got(staged: Any, inbox: Inbox) -> None:
    staged([inbox.put("a.png", photo("red", "PNG"))])
    listed = inbox.s3.list_objects_v2(Bucket=inbox.bucket, Prefix="tensors/")["Contents"]
    data = [inbox.s3.get_object(Bucket=inbox.bucket, Key=entry["Key"])["Body"].read() for entry in listed]
    images = [np.frombuffer(d, np.uint8).reshape(224, 224, 3) for d in data]
    assert any((image == [255, 0, 0]).all() for image in images)
