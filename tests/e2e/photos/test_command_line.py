"""The reference app as a user meets it in the shell."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Watched

    Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.e2e


def test_the_photographs_are_labelled(
    command: Command, photos: Watched, photographs: dict[str, Path], accepted: dict[str, list[str]]
) -> None:
    assert sorted(photographs) == sorted(accepted)
    put = command("put", *photographs.values(), "--wait", "--json")
    assert put.returncode == 0, put.stderr
    rows = [json.loads(line) for line in put.stdout.splitlines()]
    assert [row["key"] for row in rows] == list(photographs)
    for row in rows:
        assert row["status"] == "SUCCEEDED"
        assert row["label"] in accepted[row["key"]]
        assert 0.1 < row["score"] <= 1
    listed = command("results", "--json")
    assert listed.returncode == 0
    # `put` counts from the upload that it made, and `results` from the event that the row names.
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    assert all(row.pop("seconds") > 0 for row in [*rows, *found])
    assert sorted(found, key=itemgetter("key")) == sorted(rows, key=itemgetter("key"))
    (stored,) = photos.rows("dog.jpg")
    assert len(stored["prediction"]["top"]) == 5
    dog = next(row for row in rows if row["key"] == "dog.jpg")
    assert stored["model_version"] == dog["model_version"]
    assert [one["label"] for one in dog["prediction"]["top"]] == [one["label"] for one in stored["prediction"]["top"]]
    one = command("results", "dog.jpg", "--json")
    assert one.returncode == 0
    assert json.loads(one.stdout)["row"].keys() == stored.keys()
    assert dog["label"] in command("results", "dog.jpg").stdout
    assert command("results", "cat.jpg").returncode == 1


def test_what_is_no_photograph_fails(command: Command, photos: Watched, project: Path) -> None:
    (project / "notes.jpg").write_text("these are notes")
    put = command("put", "notes.jpg", "--wait", "--json")
    assert put.returncode == 1
    (row,) = [json.loads(line) for line in put.stdout.splitlines()]
    assert (row["status"], row["label"], row["score"]) == ("REJECTED", None, None)
    assert row["reason"]
    assert "REJECTED" in command("results").stdout


def test_the_metrics_go_where_the_pipeline_says(command: Command, photos: Watched) -> None:
    from cdk_inference.pipeline.measured import METRIC_NAMESPACE

    photos.put("measured.jpg", b"no photograph")
    photos.ends(["measured.jpg"])
    logs = command("logs")
    assert logs.returncode == 0
    records = [line.partition(" Postprocess ")[2] for line in logs.stdout.splitlines() if '"CloudWatchMetrics"' in line]
    record = json.loads(records[-1])
    (metrics,) = record["_aws"]["CloudWatchMetrics"]
    assert metrics["Namespace"] == METRIC_NAMESPACE
    assert record["pipeline"] == photos.name
    assert {"Succeeded", "Rejected", "Failed", "Latency"} <= {metric["Name"] for metric in metrics["Metrics"]}
