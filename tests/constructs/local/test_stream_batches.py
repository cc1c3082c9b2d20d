"""The stand-in of a pipe gives a batch of a stream the end that AWS would; without an embedded AWS."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.waiting import wait_until

from cdk_inference.local.emulator import stream_pipes
from cdk_inference.local.emulator.stream_pipes import StreamPipe, StreamPipeDefinition
from cdk_inference.local.emulator.stream_sources import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

SHARD = "shard"
DEFINITION = StreamPipeDefinition(
    name="p",
    arn="arn:aws:pipes:us-east-1:123456789012:pipe/p",
    role_arn="arn:role",
    source_arn="arn:aws:kinesis:us-east-1:123456789012:stream/s",
    target_arn="arn:target",
    target=None,  # type: ignore[arg-type] - each test has its own
    batch_size=8,
    bisect=True,
)


@dataclass
class Stream:
    """A stream of one shard."""

    records: list[Record]
    service = parameters = batch_info = "kinesis"

    def shards(self, *_: object) -> list[str]:
        return [SHARD]

    def read(self, *_: object, after: str | None, limit: int, **__: object) -> list[Record]:
        return [one for one in self.records if after is None or int(one.sequence) > int(after)][:limit]


@dataclass
class Target:
    """A target that fails some records a number of times, and others for ever."""

    failures: Counter[str] = field(default_factory=Counter)
    batches: list[list[str]] = field(default_factory=list)
    service = "stepfunctions"

    def deliver(self, _role: object, _pipe: object, _inputs: object, ids: Sequence[str], _logger: object) -> set[str]:
        self.batches.append(list(ids))
        failed = {one for one in ids if self.failures[one] > 0}
        self.failures.subtract(failed)
        return failed


def records(count: int, at: float | None = None) -> list[Record]:
    now = time.time() if at is None else at
    return [Record({}, id=f"r{n}", sequence=str(n), key=f"k{n % 3}", at=now) for n in range(1, count + 1)]


def run(
    monkeypatch: pytest.MonkeyPatch, stream: Stream, target: Target, checkpoints: dict[str, str], **options: Any
) -> list[tuple[str, list[str]]]:
    """Run a pipe until it is done with all records; return what it gave up, and why."""
    given_up: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(stream_pipes, "_BACKOFF_SECONDS", 0)
    monkeypatch.setattr(stream_pipes, "_IDLE_SECONDS", 0.001)
    monkeypatch.setitem(stream_pipes.SOURCES, "kinesis", stream)
    monkeypatch.setattr(
        StreamPipe, "_bury", lambda _, batch, __, why: given_up.append((why, [one.id for one in batch]))
    )
    ended: list[BaseException] = []
    definition = replace(DEFINITION, target=target, **options)  # type: ignore[arg-type]
    logger = logging.getLogger("test")
    pipe = StreamPipe("", definition, deque(), logger, lambda _, error: ended.append(error), checkpoints)
    try:
        wait_until(lambda: ended or checkpoints.get(SHARD) == stream.records[-1].sequence, every=0.001)
    finally:
        pipe.ask_to_stop()
        pipe.join()
    assert not ended
    return given_up


def test_a_batch_is_halved_until_what_fails_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(Counter({"r3": 5}))
    assert run(monkeypatch, Stream(records(8)), target, {}) == []
    assert target.batches[0] == [f"r{n}" for n in range(1, 9)]
    assert target.batches[1] == ["r3", "r4", "r5"]  # of the records from the first one that failed
    assert target.batches[2] == ["r3"]
    assert [batch for batch in target.batches if "r8" in batch][-1] == ["r6", "r7", "r8"]


def test_a_batch_is_given_up_after_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(Counter({"r2": 9}))
    given_up = run(monkeypatch, Stream(records(2)), target, {}, retries=2)
    assert given_up == [("RetryAttemptsExhausted", ["r2"])]
    assert target.batches == [["r1", "r2"], ["r2"], ["r2"]]


def test_what_is_too_old_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = records(2, at=1.0), records(4)[2:]
    target = Target()
    assert run(monkeypatch, Stream([*old, *new]), target, {}, max_age=60) == [("RecordAgeExpired", ["r1", "r2"])]
    assert target.batches == [["r3", "r4"]]


def test_a_pipe_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    target, checkpoints = Target(), {SHARD: "5"}
    run(monkeypatch, Stream(records(8)), target, checkpoints)
    assert target.batches == [["r6", "r7", "r8"]]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    count=st.integers(1, 30),
    failures=st.dictionaries(st.integers(1, 30).map("r{}".format), st.integers(1, 3)),
    parallel=st.integers(1, 3),
    bisect=st.booleans(),
)
def test_each_record_is_delivered_and_each_key_in_its_order(
    monkeypatch: pytest.MonkeyPatch, count: int, failures: dict[str, int], parallel: int, bisect: bool
) -> None:
    stream, target = Stream(records(count)), Target(Counter(failures))
    with monkeypatch.context() as patch:
        assert run(patch, stream, target, {}, parallel=parallel, bisect=bisect) == []
    last = {record: number for number, batch in enumerate(target.batches) for record in batch}
    assert last.keys() == {record.id for record in stream.records}
    for key in {record.key for record in stream.records}:
        ends = [last[record.id] for record in stream.records if record.key == key]
        assert ends == sorted(ends)
