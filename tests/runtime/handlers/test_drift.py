"""The scheduled function judges each window that has ended, once."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

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


def test_too_few_objects_are_no_drift_and_no_data(
    window: Window, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    window(2, {"n_objects": 49, "o0_0": 49})
    (found,) = judge()
    assert found["verdict"] == "TOO_FEW_OBJECTS"
    (line,) = logged(capsys)
    assert "_aws" not in line
    assert "Drift" not in line


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
