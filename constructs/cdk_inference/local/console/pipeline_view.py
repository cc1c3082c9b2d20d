"""A pipeline as the page shows it: sections that are read anew at each look, and sent if they have changed."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cdk_inference.local import aws
from cdk_inference.local.console.executions import Executions
from cdk_inference.local.console.inputs import inputs_of
from cdk_inference.local.console.rows import Rows
from cdk_inference.local.emulator.parts import machine_arn
from cdk_inference.local.messages import messages, queue_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cdk_inference.local.console.rows import Row
    from cdk_inference.local.console.traces import Trace
    from cdk_inference.local.messages import Message
    from cdk_inference.local.uploads import Pipeline

SHOWN = 200
"""Rows, and dead letters, of a page."""

_SHOWN_EXECUTIONS = 50
_SHOWN_KEYS = 50  # of a place
_PEEKED = 200  # messages of the queue, whose bodies are read for their keys
_MOST_BODY = 200  # characters of a dead letter that is about no object
_LISTED = 1000  # objects of the inbox that are counted
_QUEUE_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)
_BUCKETS, _BUCKET_SECONDS = 40, 15  # of the throughput
_QUIET_LOOKS = 4  # without anything new, after which the table is read only if something else has changed,
_READ_AFTER = 5  # and at each look of this number: a message may come and go between two looks

Section = dict[str, Any]


class PipelineView:
    """A deployed pipeline.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    pipeline
        The pipeline.
    """

    def __init__(self, endpoint: str, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.endpoint = endpoint
        env, parts = pipeline.env, pipeline.parts
        self._sqs = aws.client(endpoint, "sqs", env)
        self._s3 = aws.client(endpoint, "s3", env)
        dynamodb = aws.client(endpoint, "dynamodb", env)
        self.rows = Rows(dynamodb, pipeline.table, _prefixes(pipeline))
        self.inputs = {each.name: each for each in inputs_of(endpoint, pipeline)}
        machines = [machine_arn(name, env) for name in parts.workflows]
        self.executions = Executions(aws.client(endpoint, "stepfunctions", env), machines, parts.functions)
        of_machines = [stage for machine in self.executions.machines.values() for stage in machine.stages.values()]
        self.stages = list(dict.fromkeys(of_machines or list(parts.functions.values())[:1]))
        self._dead: list[Message] = []
        self._dead_counts: Sequence[int] = ()
        self._mark: object = None
        self._quiet = 0
        self._sections: dict[str, Section] = {}

    def look(self) -> dict[str, Section]:
        """Return what there is to see now, by the names of the sections."""
        queue, dead_counts = self._counts(self.pipeline.parts.queue), self._counts(self.pipeline.dead_letter_queue)
        # The rows before the executions: whoever has a row then has its whole execution, too.
        reads = self._quiet < _QUIET_LOOKS or self._quiet % _READ_AFTER == 0
        written = reads and self.rows.refresh()
        moved = self.executions.refresh()
        quiet = (queue, dead_counts) == self._mark and not moved and not written
        self._quiet, self._mark = (self._quiet + 1 if quiet else 0), (queue, dead_counts)
        if dead_counts != self._dead_counts:
            found = messages(self.endpoint, self.pipeline.dead_letter_queue or "", self.pipeline.env)
            self._dead = sorted(found, key=lambda message: message.sent, reverse=True)
            self._dead_counts = dead_counts
        if moved or written or not self._sections:
            self._sections = {
                "rows": self.page_of_rows(),
                "executions": {"executions": [_listed(one) for one in self.executions.newest(_SHOWN_EXECUTIONS)]},
                "metrics": self._metrics(),
            }
        return {
            "pipeline": self._facts(),
            "flow": {"places": self._places(queue)},
            "dead": {"total": len(self._dead), "letters": [_letter(one) for one in self._dead[:SHOWN]]},
            **self._sections,
        }

    def page_of_rows(self, *, search: str = "", statuses: tuple[str, ...] = (), skip: int = 0) -> Section:
        """Return rows as the page shows them, the newest first.

        Parameters
        ----------
        search, statuses, skip
            As for `Rows.find`.
        """
        found = self.rows.find(search=search, statuses=statuses, skip=skip, most=SHOWN + 1)
        counts = self.rows.statuses()
        return {
            "counts": dict(counts),
            "total": counts.total(),
            "skipped": skip,
            "more": len(found) > SHOWN,
            "rows": [self._with_stages(row) for row in found[:SHOWN]],
        }

    def dead_letters(self) -> list[Message]:
        """Return the dead letters of the last look, the newest first."""
        return self._dead

    def _facts(self) -> Section:
        pipeline = self.pipeline
        return {
            "name": pipeline.name,
            "inbox": pipeline.inbox or "",
            "prefix": pipeline.prefix,
            "source": pipeline.source or "",
            "table": pipeline.table or "",
            "queue": pipeline.parts.queue is not None,
            "inputs": [each.described() for each in self.inputs.values()],
            "stages": self.stages,
            "has_machines": bool(self.executions.machines),
        }

    def _counts(self, queue: str | None) -> tuple[int, ...]:
        """Return how many messages a queue has: visible, delayed and in flight."""
        if queue is None:
            return (0, 0, 0)
        url = queue_url(self.endpoint, queue, self.pipeline.env)
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(_QUEUE_COUNTS))["Attributes"]
        return tuple(int(found[name]) for name in _QUEUE_COUNTS)

    def _places(self, queue: tuple[int, ...]) -> list[Section]:
        """Return where objects are now, in the order of their way; nowhere if there are only requests."""
        if self.pipeline.table is None:
            return []
        visible, delayed, in_flight = queue
        inside = self.executions.positions()
        busy = sum(map(len, inside.values()))
        if not self.executions.machines:  # Lambda itself takes the messages
            busy = in_flight
        again = max(0, in_flight - busy)
        waiting = self._waiting(inside) if 0 < visible + again <= _PEEKED else []
        statuses = self.rows.statuses()
        return [
            *self._inbox(),
            *(
                [_place("queue", "Queue", len(waiting) or visible + delayed + again, keys=waiting, note="waiting")]
                if self.pipeline.parts.queue is not None
                else []
            ),
            *(
                _place(
                    "stage",
                    stage,
                    busy if not self.executions.machines else len(inside.get(stage, ())),
                    keys=inside.get(stage, ()),
                    note="being processed",
                    typical=self._median(stage),
                )
                for stage in self.stages
            ),
            _place("results", "Results", statuses["SUCCEEDED"], note="rows that succeeded"),
            _place("rejected", "Rejected", statuses["REJECTED"] + statuses["FAILED"], note="rows with a reason"),
            _place("dead", "Dead letters", len(self._dead), note="given up"),
        ]

    def _inbox(self) -> list[Section]:
        if self.pipeline.inbox is None:
            return []
        listed = self._s3.list_objects_v2(Bucket=self.pipeline.inbox, Prefix=self.pipeline.prefix, MaxKeys=_LISTED)
        count, more = listed["KeyCount"], listed["IsTruncated"]
        return [_place("inbox", "Inbox", count, more=more, note="objects in the bucket")]

    def _median(self, stage: str) -> int | None:
        """Return how long a stage usually takes, in milliseconds; None if it is not known."""
        durations = self.executions.durations.get(stage)
        return round(statistics.median(durations)) if durations else None

    def _waiting(self, inside: dict[str, list[str]]) -> list[str]:
        """Return the keys of the objects in the queue that are in no execution."""
        taken = Counter(key for keys in inside.values() for key in keys)
        found = []
        for message in messages(self.endpoint, self.pipeline.parts.queue or "", self.pipeline.env):
            if taken[message.key] and not message.visible:
                taken[message.key] -= 1
            else:
                found.append(message.key)
        return found

    def _with_stages(self, row: Row) -> Row:
        times = self.executions.stage_times(row["key"], row["recorded_at"])
        return row | {"stages": [[stage, times[stage]] for stage in self.stages if stage in times]}

    def _metrics(self) -> Section:
        now = time.time() * 1000
        buckets = [0] * _BUCKETS
        for row in self.rows.all():
            age = int((now - row["recorded_at"]) / 1000 / _BUCKET_SECONDS)
            if age >= _BUCKETS:
                break
            buckets[_BUCKETS - 1 - max(0, age)] += 1
        newest = self.rows.find(most=1000)
        whole = [row["milliseconds"] for row in newest if row["milliseconds"] is not None]
        stages = [("Event to row", whole)] + [
            (stage, self.executions.durations.get(stage, ())) for stage in self.stages
        ]
        return {
            "seconds": _BUCKET_SECONDS,
            "throughput": buckets,
            "times": [{"name": name, **_quantiles(values)} for name, values in stages if values],
            "models": _shares(row["model"] for row in self.rows.all()),
            "labels": _shares(row["label"] for row in self.rows.all()),
        }


def _prefixes(pipeline: Pipeline) -> dict[str, str]:
    """Return what rows name as the bucket of a pipeline's items, with the beginning of their keys."""
    inbox = pipeline.inbox
    objects = {} if inbox is None else {inbox: pipeline.prefix, f"s3:{inbox}": pipeline.prefix}  # items of objects
    requests = {f"apigateway:{api.physical_id}": "" for api in pipeline.parts.apis}
    return {**({} if pipeline.source is None else {pipeline.source: ""}), **requests, **objects}


def _place(
    kind: str,
    title: str,
    count: int,
    *,
    note: str,
    keys: Iterable[str] = (),
    more: bool = False,
    typical: int | None = None,
) -> Section:
    shown = list(keys)[:_SHOWN_KEYS]
    place = {"kind": kind, "title": title, "count": count, "more": more, "note": note, "keys": shown}
    return place | {"typical": typical}


def _letter(message: Message) -> Section:
    text = "" if message.key else message.body[:_MOST_BODY]
    return {"id": message.id, "key": message.key, "text": text, "reason": message.reason[:2000], "sent": message.sent}


def _listed(trace: Trace) -> Section:
    keys = list(dict.fromkeys(trace.objects.values()))
    return {
        "arn": trace.arn,
        "machine": trace.machine.rpartition(":")[2],
        "status": trace.status,
        "started": trace.started,
        "stopped": trace.stopped,
        "objects": len(keys),
        "keys": keys[:3],
        "error": trace.error,
    }


def _quantiles(values: Iterable[float]) -> Section:
    found = sorted(values)
    at_95 = found[min(len(found) - 1, round(0.95 * (len(found) - 1)))]
    return {"p50": round(statistics.median(found)), "p95": round(at_95), "count": len(found)}


def _shares(values: Iterable[str | None]) -> list[list[Any]]:
    counts = Counter(value for value in values if value is not None)
    return [[value, count] for value, count in counts.most_common(12)]
