"""The scheduled function judges each window that has ended, once."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.client import BaseClient

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_dynamodb import DynamoDBClient

    Window = Callable[..., str]
    Judge = Callable[[], list[dict[str, Any]]]

HOUR = 3600
SAME = {"n_objects": 200, "o0_0": 96, "o0_1": 104, "i0_0": 52, "i0_1": 98, "i0_2": 50, "n_escalated": 20}
OTHER = {"n_objects": 200, "o0_0": 190, "o0_1": 10, "i0_0": 52, "i0_1": 98, "i0_2": 50, "n_rejected": 7}


@pytest.fixture
def window(windows: str, dynamodb: DynamoDBClient) -> Window:
    """Write the counts of a window that began so many hours before the current one."""

    def write(hours: float, counts: dict[str, int], model: str = "m1#baseline") -> str:
        now = int(time.time())
        begin = datetime.fromtimestamp(now - now % HOUR - hours * HOUR, UTC).isoformat()
        values = {name: {"N": str(count)} for name, count in counts.items()}
        dynamodb.put_item(
            TableName=windows,
            Item={"model": {"S": model}, "started_at": {"S": begin}, "expires_at": {"N": "1"}} | values,
        )
        return begin

    return write


@pytest.fixture
def judge(
    windows: str, environment: pytest.MonkeyPatch, tmp_path: Path, load: Callable[[str], Any]
) -> Callable[..., list[dict[str, Any]]]:
    environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    environment.setenv("PIPELINE", "photos")

    def run(**changes: Any) -> list[dict[str, Any]]:
        statistics = [
            {"name": "logits label", "attribute": "o0", "baseline": [500, 500]},
            {"name": "image brightness", "attribute": "i0", "baseline": [250, 500, 250]},
            {"name": "escalation", "attribute": "n_escalated", "baseline": [900, 100]},
        ]
        configuration = {
            "window": HOUR,
            "false_alarm_rate": 0.01,
            "min_objects": 50,
            "metric_per_statistic": False,
            "models": [{"key": "m1#baseline", "version": "m1", "statistics": statistics}],
            **changes,
        }
        (tmp_path / "drift.json").write_text(json.dumps(configuration), "utf-8")
        found: list[dict[str, Any]] = load("drift")({})
        return found

    return run


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_window_like_the_baseline_and_one_unlike_it(
    window: Window, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = window(3, SAME), window(2, OTHER)

    first, second = judge()

    assert (first["window"], first["verdict"], first["escalated"]) == (good, "NO_DRIFT", 20)
    assert 0 <= first["drift"] < 1
    assert (second["window"], second["verdict"], second["rejected"]) == (bad, "DRIFT", 7)
    assert second["drift"] > 1
    label = second["statistics"][0]
    assert (label["name"], label["drifted"], label["window"], label["baseline"]) == (
        "logits label",
        True,
        [190, 10],
        [500, 500],
    )
    assert not second["statistics"][-1]["drifted"]
    lines = logged(capsys)
    assert [line["Drift"] for line in lines] == [first["drift"], second["drift"]]
    (metrics,) = lines[1]["_aws"]["CloudWatchMetrics"]
    assert metrics == {
        "Namespace": "cdk-inference",
        "Dimensions": [["pipeline", "model_version"]],
        "Metrics": [{"Name": "Drift", "Unit": "None"}],
    }
    assert (lines[1]["pipeline"], lines[1]["model_version"]) == ("photos", "m1")


def test_a_window_is_judged_once_and_only_when_it_has_ended(window: Window, judge: Judge) -> None:
    window(0, OTHER)
    window(2, OTHER)
    window(24 * 40, OTHER)  # nobody asks any more
    window(2, OTHER, model="m0#baseline")  # of a model that has been replaced
    assert len(judge()) == 1
    assert judge() == []


def test_a_window_of_a_clock_that_is_ahead_waits_until_it_has_ended(window: Window, judge: Judge) -> None:
    window(-1, OTHER)
    window(30, SAME)  # of one that is behind
    (found,) = judge()
    assert found["verdict"] == "NO_DRIFT"


def test_counts_that_come_after_the_verdict_change_nothing(
    window: Window, judge: Judge, windows: str, dynamodb: DynamoDBClient
) -> None:
    begin = window(2, SAME)
    (found,) = judge()
    dynamodb.update_item(
        TableName=windows,
        Key={"model": {"S": "m1#baseline"}, "started_at": {"S": begin}},
        UpdateExpression="ADD n_objects :late, o0_0 :late",
        ExpressionAttributeValues={":late": {"N": "1000"}},
    )
    assert judge() == []
    assert found["verdict"] == "NO_DRIFT"


def test_a_judge_that_is_killed_before_it_closes_a_window_says_the_same_next_time(
    window: Window, judge: Judge, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    window(2, OTHER)
    real = BaseClient._make_api_call

    def killed(self: BaseClient, name: str, arguments: dict[str, Any]) -> Any:
        if name == "UpdateItem":
            raise SystemExit("killed")
        return real(self, name, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", killed)
        with pytest.raises(SystemExit):
            judge()
    (again,) = judge()
    first, second = ({name: one[name] for name in ("window", "verdict", "Drift")} for one in logged(capsys))
    assert first == second
    assert again["verdict"] == "DRIFT"
    assert judge() == []


def test_too_few_objects_are_no_drift_and_no_data(
    window: Window, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    window(2, {"n_objects": 49, "o0_0": 49})
    (found,) = judge()
    assert found["verdict"] == "TOO_FEW_OBJECTS"
    (line,) = logged(capsys)
    assert "_aws" not in line
    assert "Drift" not in line


@pytest.fixture
def listener(environment: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Have verdicts sent to a bus, and return what takes the events about them."""
    events, sqs = boto3.client("events"), boto3.client("sqs")
    name = f"verdicts-{time.monotonic_ns()}"
    bus, queue = events.create_event_bus(Name=name)["EventBusArn"], sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name=name, EventBusName=name, EventPattern='{"source": ["cdk-inference"]}')
    events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
    environment.setenv("EVENT_BUS", bus)

    def taken() -> list[dict[str, Any]]:
        found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in found]

    return taken


def test_a_verdict_is_an_event_with_all_evidence(
    window: Window, judge: Judge, listener: Callable[[], list[dict[str, Any]]]
) -> None:
    begins = [window(3, SAME), window(2, OTHER)]
    found = judge()
    events = listener()
    assert {(event["source"], event["detail-type"]) for event in events} == {("cdk-inference", "Drift Verdict")}
    details = sorted((event["detail"] for event in events), key=lambda detail: detail["window"])
    for begin, detail, said in zip(begins, details, found, strict=True):
        assert detail == {**said, "event_id": f"m1#baseline {begin}", "baseline": "m1#baseline"}


def test_a_window_whose_verdict_the_bus_does_not_take_is_judged_again(
    window: Window, judge: Judge, environment: pytest.MonkeyPatch, listener: Callable[[], list[dict[str, Any]]]
) -> None:
    begins = [window(3, SAME), window(2, OTHER)]
    bus = os.environ["EVENT_BUS"]
    environment.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", "http://127.0.0.1:1")
    with pytest.raises(RetryableError, match="cannot send the verdicts of 2 windows"):
        judge()
    environment.delenv("AWS_ENDPOINT_URL_EVENTBRIDGE")
    environment.setenv("EVENT_BUS", bus)
    assert [one["window"] for one in judge()] == begins
    assert sorted(event["detail"]["window"] for event in listener()) == begins
    assert judge() == []


def test_a_statistic_that_nobody_counted_is_no_drift(window: Window, judge: Judge) -> None:
    window(
        2, {"n_objects": 200, "o0_0": 96, "o0_1": 104, "n_escalated": 20}
    )  # of objects that were prepared before a deployment
    (found,) = judge()
    (empty,) = (one for one in found["statistics"] if one["name"] == "image brightness")
    assert (found["verdict"], empty["p_value"], empty["stability_index"]) == ("NO_DRIFT", 1.0, 0.0)


def test_nothing_to_judge_is_fine(judge: Judge) -> None:
    assert judge() == []


def test_a_metric_for_each_statistic_if_asked(
    window: Window, judge: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    window(2, OTHER)
    judge(metric_per_statistic=True)
    _, *lines = logged(capsys)
    assert {line["statistic"] for line in lines} == {"logits label", "image brightness", "escalation"}
    assert all(
        line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["pipeline", "model_version", "statistic"]]
        for line in lines
    )
