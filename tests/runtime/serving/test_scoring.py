"""Batches of what waits: one event harms no other, and two deliveries of an event end alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from inference_runtime.engine.session import Threads
from inference_runtime.errors import LittleTimeError, RetryableError
from inference_runtime.serving.cpus import available_cpus
from inference_runtime.serving.scoring import Outcome, Scorer

if TYPE_CHECKING:
    from pathlib import Path


class Handler:
    """Answers by the body of each message, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        bodies = {message["message_id"]: message["body"] for message in event["messages"]}
        self.batches.append(list(bodies.values()))
        assert 0 < context.get_remaining_time_in_millis() <= 600_000
        if "poison" in bodies.values():
            raise MemoryError("too large")
        if "away" in bodies.values():
            raise RetryableError("the table is away")
        if {"long 1", "long 2"} <= {*bodies.values()} or "endless" in bodies.values():
            raise LittleTimeError("too late")
        done: dict[str, Any] = {"retry": [], "unfinished": [], "failures": [], "answers": []}
        for message_id, body in bodies.items():
            if body == "late":
                done["unfinished"].append(message_id)
            elif body in {"bug", "MalformedMessageError", "NeverWrittenError"}:
                done["failures"].append({"message_id": message_id, "error": body, "cause": "because"})
            elif body != "superseded":
                rejected = {"status": "REJECTED", "reason": "too dark"} if body == "dark" else {"status": "SUCCEEDED"}
                done["answers"].append({"message_id": message_id, **rejected})
        return done


def outcomes(handler: Handler, bodies: list[str], most: int = 16) -> list[Outcome]:
    """How messages end that wait when the server gets ready."""
    scorer = Scorer(handler, max_batch=most, seconds=600)
    waiting = [
        scorer.submit({"message_id": str(number), "body": body, "item": {"id": body, "time": str(number)}})
        for number, body in enumerate(bodies)
    ]
    scorer.stop()
    scorer.run()
    return [future.result(0).outcome for future in waiting]


def test_every_end_of_a_message_is_told_apart() -> None:
    handler = Handler()
    bodies = ["good", "dark", "MalformedMessageError", "bug", "late", "superseded", "NeverWrittenError"]
    assert outcomes(handler, bodies) == [
        Outcome.STORED,
        Outcome.REJECTED,
        Outcome.MALFORMED,
        Outcome.FAILED,
        Outcome.RETRY,
        Outcome.STORED,
        Outcome.REJECTED,
    ]
    assert handler.batches == [bodies]
    assert outcomes(Handler(), ["good", "away"]) == [Outcome.RETRY] * 2


def test_two_deliveries_of_an_event_end_alike() -> None:
    handler = Handler()
    assert outcomes(handler, ["late", "good", "late"]) == [Outcome.RETRY, Outcome.STORED, Outcome.RETRY]
    assert handler.batches == [["late", "good"]]


def test_a_message_that_fails_its_batch_is_found() -> None:
    handler = Handler()
    expected = [Outcome.STORED, Outcome.FAILED, Outcome.STORED]
    assert outcomes(handler, ["one", "poison", "two"]) == expected
    assert handler.batches == [["one", "poison", "two"], ["one"], ["poison"], ["two"]]


def test_a_batch_that_takes_too_long_is_scored_one_by_one() -> None:
    handler = Handler()
    bodies = ["long 1", "good", "long 2"]
    assert outcomes(handler, bodies) == [Outcome.STORED] * 3
    assert handler.batches == [bodies, *([body] for body in bodies)]
    assert outcomes(Handler(), ["endless", "good"]) == [Outcome.RETRY, Outcome.STORED]


def test_batches_are_bounded_and_those_who_left_are_not_scored() -> None:
    handler = Handler()
    assert outcomes(handler, ["a", "b", "c"], most=2) == [Outcome.STORED] * 3
    assert handler.batches == [["a", "b"], ["c"]]
    scorer = Scorer(handler, max_batch=1, seconds=600)
    assert scorer.submit({"message_id": "1", "body": "left"}).cancel()
    scorer.stop()
    scorer.run()
    assert handler.batches == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "1000000000 100000"}, None),
        ({}, None),
    ],
)
def test_threads_are_those_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert available_cpus(tmp_path) == (expected or len(os.sched_getaffinity(0)))
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    monkeypatch.setenv("MODEL_THREADS", "3")
    assert (Threads.of_function().count, Threads.of_function().spin) == (3, True)
