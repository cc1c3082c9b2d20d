"""The postprocessing function: one row, retry or failure for each item, whatever the model or the user's code does."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from tests.runtime.arrays import ArrayStore

from inference_runtime.errors import RetryableError
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client


def item(key: str, sequencer: str = "10", version_id: str | None = None) -> dict[str, Any]:
    return Item(
        id=hashlib.sha256(f"{key}{sequencer}".encode()).hexdigest(),
        bucket="photos",
        key=key,
        version_id=version_id,
        etag="e",
        size=7,
        sequencer=sequencer.ljust(32, "0"),
        event_time=(datetime.now(UTC) - timedelta(seconds=2)).isoformat(),
        message_id=f"message of {key}",
    ).to_json()


one = np.array([1.5], np.float32)


def test_a_row(configure: Any, rows: Any) -> None:
    before = datetime.now(UTC)
    done = configure(RESULT_TTL_DAYS="30")([(item("a b+c.jpg", version_id="v7"), one)])
    after = datetime.now(UTC)
    assert done == {"retry": [], "failures": [], "succeeded": 1, "rejected": 0, "failed": 0, "unsure": []}
    row = rows()["a b+c.jpg"]
    recorded, expires = datetime.fromisoformat(row.pop("recorded_at")), int(row.pop("expires_at"))
    assert before - timedelta(milliseconds=1) <= recorded <= after  # a row has whole milliseconds
    assert expires == int((recorded + timedelta(days=30)).timestamp())
    event = item("a b+c.jpg", version_id="v7")
    row.pop("event_time")
    assert row == {
        "object": "photos/a b+c.jpg",
        "version": "v7#m1",
        "id": event["id"],
        "bucket": "photos",
        "key": "a b+c.jpg",
        "etag": "e",
        "size": 7,
        "sequencer": event["sequencer"],
        "status": "SUCCEEDED",
        "prediction": {"y": [Decimal("1.5")]},
        "model_version": "m1",
        "inference": "cpu",
    }


def test_without_ttl_a_row_does_not_expire(configure: Any, rows: Any) -> None:
    configure()([(item("a"), one)])
    assert "expires_at" not in rows()["a"]


def test_the_model_version_is_the_one_that_ran(configure: Any, rows: Any) -> None:
    configure()([(item("a"), one)], model_version="m2")
    assert rows()["a"]["version"] == "null#m2"
    assert rows()["a"]["model_version"] == "m2"


def test_rejected_items_get_a_row_with_the_reason(configure: Any, rows: Any) -> None:
    done = configure()([(item("bad"), "object is empty"), (item("good"), one)])
    assert done == {"retry": [], "failures": [], "succeeded": 1, "rejected": 1, "failed": 0, "unsure": []}
    assert rows()["bad"]["status"] == "REJECTED"
    assert rows()["bad"]["reason"] == "object is empty"
    assert "prediction" not in rows()["bad"]


def test_an_item_without_outcome_fails(configure: Any, rows: Any) -> None:
    done = configure()([(item("lost"), None), (item("good"), one)])
    [failure] = done["failures"]
    assert failure == {
        "message_id": "message of lost",
        "error": "StageError",
        "cause": "inference returned nothing for the object",
    }
    assert done["retry"] == []
    assert rows().keys() == {"good"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_returns_no_numbers_fails_the_item(configure: Any, rows: Any, value: float) -> None:
    done = configure()([(item("bad"), np.array([value], np.float32)), (item("good"), one)])
    assert (done["succeeded"], done["failed"]) == (1, 1)
    assert rows()["bad"]["status"] == "FAILED"
    assert rows()["bad"]["reason"] == "model output 'y' has 1 values that are NaN or infinite"


@pytest.mark.parametrize(
    ("returned", "status", "says"),
    [
        ("None", "FAILED", "postprocess returned NoneType, expected a dict"),
        ("[1]", "FAILED", "postprocess returned list, expected a dict"),
        ("{'a': {1, 2}}", "FAILED", "prediction.a is set"),
        ("{'a': [object()]}", "FAILED", "prediction.a[0] is object"),
        ("{'a': range(3)}", "FAILED", "prediction.a is range"),
        ("{3: 4}", "FAILED", "prediction has the key 3, expected a string"),
        ("{'a': {'': 4}}", "FAILED", "prediction.a has the key '', expected a string"),
        ("{'a': 10 ** 5000}", "FAILED", "prediction.a is 1.000e+5000, which is too large"),
        ("{'a': 3j}", "FAILED", "prediction.a is complex"),
        ("{'a': np.datetime64('2026-01-01')}", "FAILED", "prediction.a is date"),
        ("{'a': float('nan')}", "FAILED", "prediction.a is nan, expected a finite number"),
        ("{'a': Decimal('sNaN')}", "FAILED", "prediction.a is sNaN, expected a finite number"),
        ("{'a': Decimal('1e400')}", "FAILED", "prediction.a is 1.000e+400, which is too large"),
        ("{'a': 10 ** 200}", "FAILED", "prediction.a is 1.000e+200, which is too large"),
        ("{'a': 'x' * 400_000}", "FAILED", "result is 400,005 bytes, at most 300,000 fit a row"),
        ("{'a': '\\ud800'}", "FAILED", "prediction.a is not valid Unicode"),
        ("(lambda d: d.update(d=d) or d)({})", "FAILED", "nested deeper than 28 levels"),
        ("refuse()", "REJECTED", "not a cat"),
    ],
)
def test_what_user_code_returns_or_raises(configure: Any, rows: Any, returned: str, status: str, says: str) -> None:
    handler = configure(f"""
        from decimal import Decimal
        import numpy as np
        from inference_runtime import RejectItem

        def refuse():
            raise RejectItem("not a cat")

        def function(outputs, item):
            if item.key == "good":
                return {{"fine": True}}
            return {returned}
    """)
    done = handler([(item("bad"), one), (item("good"), one)])
    assert done == {
        "retry": [],
        "failures": [],
        "succeeded": 1,
        "rejected": int(status == "REJECTED"),
        "failed": int(status == "FAILED"),
        "unsure": [],
    }
    assert rows()["bad"]["status"] == status
    assert says in rows()["bad"]["reason"]
    assert rows()["good"]["prediction"] == {"fine": True}


@pytest.mark.parametrize(
    ("bug", "error"),
    [
        ("outputs['z']", "KeyError"),
        ("int('x')", "invalid literal"),
        ("outputs['y'].reshape(3)", "cannot reshape"),
        ("exec('raise MemoryError')", "MemoryError"),
    ],
)
def test_a_bug_in_user_code_fails_and_is_logged(
    configure: Any, rows: Any, caplog: pytest.LogCaptureFixture, bug: str, error: str
) -> None:
    handler = configure(f"def function(outputs, item): return {{'y': 1 if item.key == 'good' else {bug}}}")
    done = handler([(item("bad"), one), (item("good"), one)])
    [failure] = done.pop("failures")
    assert done == {"retry": [], "succeeded": 1, "rejected": 0, "failed": 0, "unsure": []}
    assert failure["message_id"] == "message of bad"
    assert error in f"{failure['error']}: {failure['cause']}"
    assert rows().keys() == {"good"}
    [logged] = caplog.records
    assert vars(logged)["object_key"] == "photos/bad"
    assert vars(logged)["message_id"] == "message of bad"
    assert error in caplog.text


def test_everything_that_json_and_numpy_have_can_be_stored(configure: Any, rows: Any) -> None:
    handler = configure("""
        import numpy as np
        def function(outputs, item):
            return {
                "texts": ["", "日本語", "x"], "none": None, "yes": True, "no": np.bool_(False), "int": np.int64(-3),
                "half": np.float16(0.5), "float": 0.1, "tiny": 1e-300, "large": 1.5e37, "small": -1.5e-7, "zero": -0.0,
                "array": np.array([[1, 2], [3, 4]], np.uint8), "scalar": np.array(7), "tuple": (1, 2), "empty": {},
                "bools": np.array([True, False]),
            }
    """)
    assert handler([(item("a"), one)])["succeeded"] == 1
    assert rows()["a"]["prediction"] == {
        "texts": ["", "日本語", "x"],
        "none": None,
        "yes": True,
        "no": False,
        "int": -3,
        "half": Decimal("0.5"),
        "float": Decimal("0.1"),
        "tiny": 0,
        "large": Decimal("1.5e37"),
        "small": Decimal("-1.5e-7"),
        "zero": 0,
        "array": [[1, 2], [3, 4]],
        "scalar": 7,
        "tuple": [1, 2],
        "empty": {},
        "bools": [True, False],
    }


def test_the_newest_event_wins_in_any_order(configure: Any, rows: Any) -> None:
    handler = configure()
    old, new = item("a", "10"), item("a", "2")
    assert handler([(new, np.array([2.0]))])["retry"] == []
    assert handler([(old, np.array([1.0])), (new, np.array([3.0]))])["retry"] == []
    assert rows()["a"]["prediction"] == {"y": [2]}
    assert handler([(item("a", "3"), "broken")])["retry"] == []
    assert rows()["a"]["status"] == "REJECTED"
    assert "prediction" not in rows()["a"]


def test_a_replay_after_a_fix_replaces_a_rejection_but_never_a_success(configure: Any, rows: Any) -> None:
    handler = configure()
    handler([(item("a"), "no reader for this format")])
    handler([(item("a"), one)])
    assert rows()["a"]["status"] == "SUCCEEDED"
    handler([(item("a"), "object no longer exists")])
    assert rows()["a"]["status"] == "SUCCEEDED"


def test_only_new_rows_are_counted(configure: Any, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handler = configure()
    batch = [(item("good"), one), (item("bad"), "object is empty"), (item("odd"), np.array([np.nan], np.float32))]
    nothing = {"retry": [], "failures": [], "succeeded": 0, "rejected": 0, "failed": 0, "unsure": []}
    assert handler(batch) == {"retry": [], "failures": [], "succeeded": 1, "rejected": 1, "failed": 1, "unsure": []}
    before = rows()
    capsys.readouterr()
    assert handler(batch) == nothing  # delivered again
    assert handler([(item("good", "0f"), one)]) == nothing  # older than the row
    assert rows() == before
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [m[status] for m in metrics for status in ("Succeeded", "Rejected", "Failed", "Retried")] == [[0]] * 8
    assert all("Latency" not in m for m in metrics)
    assert handler([(item("bad"), "not an image")]) == {**nothing, "rejected": 1}
    assert rows()["bad"]["reason"] == "not an image"


def test_versions_and_models_have_rows_of_their_own(configure: Any, table: str) -> None:
    handler = configure()
    handler([(item("a", version_id="v1"), one), (item("a", "20", version_id="v2"), one)])
    handler([(item("a", version_id="v1"), one)], model_version="m2")
    found = boto3.client("dynamodb").scan(TableName=table)["Items"]
    assert sorted(row["version"]["S"] for row in found) == ["v1#m1", "v1#m2", "v2#m1"]


def test_a_row_that_cannot_be_written_is_retried(configure: Any, caplog: pytest.LogCaptureFixture) -> None:
    done = configure(RESULTS_TABLE="no-such-table")([(item("a"), one), (item("b"), "why")])
    retried = ["message of a", "message of b"]
    assert done == {"retry": retried, "failures": [], "succeeded": 0, "rejected": 0, "failed": 0, "unsure": []}
    assert "ResourceNotFoundException" in caplog.text


def test_a_row_that_the_table_never_takes_fails(configure: Any) -> None:
    other = {"AttributeName": "other", "KeyType": "HASH"}
    boto3.client("dynamodb").create_table(
        TableName="other-keys",
        KeySchema=[other],
        AttributeDefinitions=[{"AttributeName": "other", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    done = configure(RESULTS_TABLE="other-keys")([(item("a"), one)])
    [failure] = done["failures"]
    assert (done["retry"], failure["message_id"], failure["error"]) == ([], "message of a", "ClientError")
    assert "ValidationException" in failure["cause"]


def test_outputs_that_are_gone_fail_as_retryable(
    stage: Callable[[str], str], load: Callable[[str], Any], table: str, s3: S3Client, bucket: str
) -> None:
    stage("def function(outputs, item): return {'size': outputs['y'].size}")
    handler = load("postprocess")
    group = ArrayStore(s3, bucket).dump_groups({}, [([0], {"y": np.zeros((1, 9000))})], "outputs", 2000)
    event = {"items": [item("a")], "rejected": [], "inference": "cpu", "model_version": "m1", **group}
    assert handler(event)["succeeded"] == 1
    s3.delete_object(Bucket=bucket, Key=event["groups"][0]["outputs"]["y"]["key"])
    with pytest.raises(RetryableError, match="NoSuchKey"):
        handler(event)


def test_metrics(configure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure()([(item("a"), one), (item("b"), one), (item("c"), "why"), (item("d"), None)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [emf] = [line for line in lines if "_aws" in line]
    [directive] = emf["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "cdk-inference"
    assert directive["Dimensions"] == [["pipeline"]]
    assert emf["pipeline"] == "photos"
    assert emf["model_version"] == "m1"
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == {
        **dict.fromkeys(("Succeeded", "Rejected", "Failed", "Retried"), "Count"),
        "Latency": "Milliseconds",
    }
    assert (emf["Succeeded"], emf["Rejected"], emf["Failed"], emf["Retried"]) == ([2], [1], [0], [1])
    assert all(2000 <= latency < 60_000 for latency in emf["Latency"])
    assert len(emf["Latency"]) == 3


def test_routes_and_variants_have_metrics_if_they_are_asked_for(
    configure: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, by_both = configure(), configure(ROUTE_METRICS="1", VARIANT_METRICS="1")
    by_both([(item("a"), one)], route="small", variant="après")
    by_both([(item("b"), one)], route="small", variant=None)
    by_both([(item("c"), one)])
    plain([(item("d"), one)], route="small", variant="après")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [emf["_aws"]["CloudWatchMetrics"][0]["Dimensions"] for emf in found] == [
        [["pipeline"], ["pipeline", "route"], ["pipeline", "variant"]],
        [["pipeline"], ["pipeline", "route"]],
        [["pipeline"]],
        [["pipeline"]],
    ]
    # CloudWatch takes ASCII only
    assert (found[0]["pipeline"], found[0]["route"], found[0]["variant"]) == ("photos", "small", "apr\\xe8s")


@pytest.mark.parametrize("event_time", ["yesterday", "", "2026-01-02T03:04:05"])
def test_an_event_without_a_proper_time_is_stored_without_latency(
    configure: Any, rows: Any, capsys: pytest.CaptureFixture[str], event_time: str
) -> None:
    assert configure()([({**item("a"), "event_time": event_time}, one)])["succeeded"] == 1
    assert "Latency" not in capsys.readouterr().out
