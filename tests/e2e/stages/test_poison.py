"""Objects that kill or stall the process that reads them, and messages that are none: each fails alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.conftest import Watched
    from tests.e2e.stages.conftest import Hostile

pytestmark = pytest.mark.e2e


def test_in_a_batch_of_32_only_the_object_that_kills_the_process_fails(obedient: Watched, hostile: Hostile) -> None:
    ends = obedient.ends(hostile.batch, timeout=600)
    assert ends == {key: "DEAD_LETTER" if order == b"exit" else "SUCCEEDED" for key, order in hostile.batch.items()}
    assert list(ends.values()).count("DEAD_LETTER") == 1
    starts = [obedient.history(execution)[0]["executionStartedEventDetails"] for execution in obedient.executions()]
    (batch,) = [start["input"] for start in starts if '"batch/13"' in start["input"]]
    assert len(json.loads(batch)) == 32


def test_crashes_and_timeouts_in_the_same_batch_fail_alone(obedient: Watched, hostile: Hostile) -> None:
    assert obedient.ends(hostile.mixed, timeout=600) == {
        "mixed/1": "SUCCEEDED",
        "mixed/crash": "DEAD_LETTER",
        "mixed/2": "SUCCEEDED",
        "mixed/raise": "DEAD_LETTER",
        "mixed/sleep": "DEAD_LETTER",
        "mixed/3": "SUCCEEDED",
    }
    stage = "Preprocess" if "Preprocess" in obedient.functions else "Score"
    assert "RuntimeError: as it was told" in obedient.logs(stage)


def test_messages_that_are_no_events_fail_alone(obedient: Watched, hostile: Hostile) -> None:
    obedient.ends(hostile.mixed, timeout=600)  # which were in their batch
    dead = obedient.dead_bodies()
    assert [dead.count(body) for body in hostile.garbage] == [1] * len(hostile.garbage)


def test_fused_stages_write_the_same_rows(
    watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner, hostile: Hostile
) -> None:
    rows = []
    for name in ("Obedient", "Fused"):
        pipeline = watch(cloud, f"Stages/{name}")
        keys = hostile.batch.keys() | hostile.mixed.keys()
        pipeline.ends(keys, timeout=600)
        # Where and when differ.
        own = {"object", "bucket", "id", "sequencer", "event_time", "recorded_at"}
        rows.append({row["key"]: {n: v for n, v in row.items() if n not in own} for row in pipeline.rows(*keys)})
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(hostile.batch) + len(hostile.mixed) - 4  # what has no row is a dead letter
