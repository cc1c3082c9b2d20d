"""`cdk_inference.testing` next to the function itself: each object ends in the same way, with the same words."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.runtime.stages.mean import BODIES, code, score

from cdk_inference.client import Result
from cdk_inference.model import TensorSpec, build_model
from cdk_inference.testing import InProcessPipeline, LocalModel, StageFailedError

if TYPE_CHECKING:
    from conftest import Inbox

__all__ = ["code", "score"]  # fixtures

DIGITS = Path(__file__).parents[3] / "model_assets" / "digits_cnn" / "recipe.py"


def test_each_object_ends_as_in_the_function(score: Any, inbox: Inbox, table: str, tmp_path: Path) -> None:
    messages = {key: inbox.put(key, body) for key, body in BODIES.items()}
    failures = {each["message_id"]: each for each in score(list(messages.values()))["failures"]}
    rows = boto3.client("dynamodb").scan(TableName=table)["Items"]
    expected = {row["key"]["S"]: Result.from_row(row) for row in rows}
    assert len(expected) + len(failures) == len(BODIES)

    manifest = replace(
        build_model(DIGITS).manifest,
        model_version="m1",
        inputs=(TensorSpec("x", "float32", ("batch", "n")),),
        outputs=(TensorSpec("mean", "float32", ("batch",)),),
    )
    entries = {
        name: f"{tmp_path / module}.py:{function}"
        for name in ("preprocess", "postprocess")
        for module, function in [os.environ[f"{name.upper()}_FUNCTION"].split(":")]
    }
    pipeline = InProcessPipeline(model=LocalModel(manifest, tmp_path / "model"), **entries)
    for key, body in BODIES.items():
        failure = failures.get(messages[key]["message_id"])
        if failure is not None:
            with pytest.raises((StageFailedError, RuntimeError)) as raised:
                pipeline.run(body, key=key, bucket=inbox.bucket)
            name = getattr(raised.value, "error", type(raised.value).__name__)
            assert (name, str(raised.value)) == (failure["error"], failure["cause"])
            continue
        found, same = pipeline.run(body, key=key, bucket=inbox.bucket).result.row, expected[key].row
        assert {name: found[name] for name in found if name not in VARIES} == {
            name: same[name] for name in same if name not in VARIES
        }


VARIES = {"id", "sequencer", "event_time", "recorded_at", "inference"}
"""Attributes of an event, or of a batch as a whole."""
