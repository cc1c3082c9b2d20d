"""The way of one execution through its states, with its objects and times, from its history."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping
from cdk_inference.local.messages import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

_MOST_CAUSE = 4000  # characters of what an error says


@dataclass(frozen=True)
class Span:
    """A visit of a state.

    Parameters
    ----------
    state, kind
        Its name and type.
    iteration
        The id of the event that began the iteration of a Map state; 0 outside of one.
    entered, left
        When, in milliseconds since the epoch; the second is None as long as it is in there.
    error
        The last error of its task, if it had one; an error may be caught, or tried again.
    attempts
        How often its task was scheduled.
    """

    state: str
    kind: str
    iteration: int
    entered: int
    left: int | None = None
    error: str | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Trace:
    """An execution.

    Parameters
    ----------
    arn, machine
        Its ARN, and that of the state machine.
    status
        As Step Functions names it.
    started, stopped
        When, in milliseconds since the epoch; the second is None while it runs.
    objects
        The keys of its objects by the id of the message that brought each, or by its place in the input if no message
        did.
    spans
        The visits of states, in the order of their beginnings.
    members
        The ids of the messages of each iteration that is for some of them.
    messages
        The ids in ``objects`` that are of messages.
    error
        Why it failed, if it did.
    """

    arn: str
    machine: str
    status: str
    started: int
    stopped: int | None
    objects: Mapping[str, str] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    members: Mapping[int, frozenset[str]] = field(default_factory=dict)
    messages: frozenset[str] = frozenset()
    error: str | None = None

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.status == "RUNNING"

    def of(self, message: str) -> list[Span]:
        """Return the visits of an object, by the id of its message."""
        return [span for span in self.spans if message in self.members.get(span.iteration, self.objects)]

    def statuses(self) -> dict[str, str]:
        """Return how each state that was visited stands: ``running``, ``failed``, ``caught`` or ``done``."""
        found: dict[str, str] = {}
        for span in self.spans:
            if span.left is None:
                found[span.state] = "running" if self.running else "failed"
            elif found.get(span.state) not in ("running", "failed"):
                found[span.state] = "caught" if span.error or found.get(span.state) == "caught" else "done"
        return found


def read_trace(execution: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Trace:
    """Read an execution.

    Parameters
    ----------
    execution
        As DescribeExecution returns it.
    events
        Its history, in order.
    """
    iterations: dict[int, int] = {}
    parents: dict[int, int] = {}
    members: dict[int, frozenset[str]] = {}
    spans: list[Span] = []
    open_at: dict[int, list[int]] = {}  # by iteration: the places of spans that have not ended, the innermost last
    objects, messages = _objects(execution.get("input"))
    for event in events:
        before = event.get("previousEventId", 0)
        kind, around = str(event["type"]), iterations.get(before, 0)
        if kind == "MapIterationStarted":
            parents[event["id"]], around = around, event["id"]
        inside = open_at.setdefault(around, [])
        if kind.endswith("StateEntered"):
            details = event["stateEnteredEventDetails"]
            if around and around not in members and (ids := _ids(details.get("input"), objects)):
                members[around] = ids
            inside.append(len(spans))
            spans.append(Span(details["name"], kind.removesuffix("StateEntered"), around, _ms(event["timestamp"])))
        elif kind.endswith("StateExited"):
            name = event["stateExitedEventDetails"]["name"]
            place = next((each for each in reversed(inside) if spans[each].state == name), None)
            if place is not None:
                inside.remove(place)
                spans[place] = replace(spans[place], left=_ms(event["timestamp"]))
        elif kind == "TaskScheduled" and inside:
            spans[inside[-1]] = replace(spans[inside[-1]], attempts=spans[inside[-1]].attempts + 1)
        elif kind == "TaskFailed" and inside:
            said = event["taskFailedEventDetails"]
            error = ": ".join(str(said[name]) for name in ("error", "cause") if said.get(name))[:_MOST_CAUSE]
            spans[inside[-1]] = replace(spans[inside[-1]], error=error)
        # After an iteration, the way goes on outside of it.
        ended = kind in ("MapIterationSucceeded", "MapIterationFailed", "MapIterationAborted")
        while ended and inside:
            place = inside.pop()
            spans[place] = replace(spans[place], left=_ms(event["timestamp"]), error=spans[place].error or "failed")
        iterations[event["id"]] = parents.get(around, 0) if ended else around
    stopped = execution.get("stopDate")
    said = [str(execution[name]) for name in ("error", "cause") if execution.get(name)]
    return Trace(
        arn=execution["executionArn"],
        machine=execution["stateMachineArn"],
        status=execution["status"],
        started=_ms(execution["startDate"]),
        stopped=None if stopped is None else _ms(stopped),
        objects=objects,
        spans=tuple(spans),
        members=members,
        messages=messages,
        error=": ".join(said)[:_MOST_CAUSE] or None,
    )


def _objects(text: object) -> tuple[dict[str, str], frozenset[str]]:
    """Return the keys of the objects in the input of an execution by id, and which of the ids are of messages."""
    given = _parsed(text)
    found: dict[str, str] = {}
    messages = set()
    for number, member in enumerate(listed(mapping(given).get("items", given))):
        message = mapping(member)
        body = message.get("body")
        event = mapping(_parsed(body) if isinstance(body, str) else body)
        item = mapping(message.get("item", event.get("item")))
        key = message.get("key") or key_of(event) or key_of(message) or item.get("id")
        if key and (id := message.get("message_id") or message.get("messageId")):
            messages.add(str(id))
            found[str(id)] = str(key)
        elif key:
            found[str(number)] = str(key)
    return found, frozenset(messages)


def _ids(text: object, objects: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of messages that the input of an iteration names."""
    ids = mapping(_parsed(text)).get("ids")
    return frozenset(str(each) for each in listed(ids)) & objects.keys()


def _parsed(text: object) -> object:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError):
        return None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
