"""Objects that kill or stall the process that reads them, and messages that are none: each fails alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.conftest import Watched
    from tests.e2e.stages.conftest import Hostile

pytestmark = pytest.mark.e2e


def test_in_a_batch_only_the_object_that_kills_the_process_fails(obedient: Watched, hostile: Hostile) -> None:
    ends = obedient.ends(hostile.batch, timeout=600)
    assert ends == {key: "DEAD_LETTER" if order == b"exit" else "SUCCEEDED" for key, order in hostile.batch.items()}
    assert list(ends.values()).count("DEAD_LETTER") == 1
    inputs = [obedient.input(execution) for execution in obedient.executions()]
    # There are 32, unless the machine was too busy for the pipe to take them within its window.
    batches = [json.loads(one) for one in inputs if '"batch/13"' in one]
    assert max(map(len, batches)) > 1


def test_crashes_and_timeouts_in_the_same_batch_fail_alone(obedient: Watched, hostile: Hostile) -> None:
    assert obedient.ends(hostile.mixed, timeout=600) == {
        "mixed/1": "SUCCEEDED",
        "mixed/crash": "DEAD_LETTER",
        "mixed/2": "SUCCEEDED",
        "mixed/raise": "DEAD_LETTER",
        "mixed/sleep": "DEAD_LETTER",
        "mixed/3": "SUCCEEDED",
    }


def test_several_slow_objects_of_32_fail_alone(obedient: Watched, hostile: Hostile) -> None:
    """That one execution finds them is shown in tests/workflow: here, a busy machine may give some back."""
    orders = hostile.slow
    ends = obedient.ends(orders, timeout=600)
    assert ends == {key: "DEAD_LETTER" if order == b"sleep" else "SUCCEEDED" for key, order in orders.items()}
    assert list(ends.values()).count("DEAD_LETTER") == 4
    errors = {key: error for key, (error, _) in obedient.reasons().items() if key in orders}
    assert errors.keys() == {key for key, end in ends.items() if end == "DEAD_LETTER"}
    assert "" not in errors.values()


def test_a_dead_letter_says_why_it_is_one(obedient: Watched, hostile: Hostile) -> None:
    obedient.ends(hostile.mixed, timeout=600)
    reasons = obedient.reasons()
    assert reasons["mixed/raise"] == ("RuntimeError", "as it was told")
    assert all(reasons[key][0] and reasons[key][1] for key in ("mixed/crash", "mixed/sleep"))


def test_messages_that_are_no_events_fail_alone(obedient: Watched, hostile: Hostile) -> None:
    obedient.ends(hostile.mixed, timeout=600)  # which were in their batch

    def parsed(body: str) -> object:
        # The pipe parses JSON, so that a quoted string comes without its quotes.
        try:
            return json.loads(body)
        except ValueError:
            return body

    def dead() -> list[int]:
        found = [parsed(body) for body in obedient.dead_bodies()]
        return [found.count(parsed(body)) for body in hostile.garbage]

    wait_until(lambda: all(dead()), dead, every=0.25)
    assert dead() == [1] * len(hostile.garbage)


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
