"""All that is known of one object: its rows, its dead letters, its executions and what was logged of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cdk_inference.drawings.layout import draw
from cdk_inference.local import aws
from cdk_inference.local.console.rows import milliseconds, values
from cdk_inference.local.emulator.parts import log_events

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from cdk_inference.drawings.layout import Drawing
    from cdk_inference.local.console.pipeline_view import PipelineView
    from cdk_inference.local.console.traces import Trace
    from cdk_inference.local.messages import Message

_MOST_ROWS = 50  # of one object
_MOST_ENTRIES = 200  # of the logs
_MOST_CHARACTERS = 20_000  # of an entry
_BEFORE_MS, _AFTER_MS = 1000, 5000  # around an execution, in which its functions log
_TRACEBACK = "Traceback (most recent call last):"
_CHAINS = ("During handling of the above exception", "The above exception was the direct cause")
_CODE = re.compile(r'File "[^"\n]*/code/')  # where a function's package is unpacked
_NOISE = ("START RequestId", "END RequestId", "REPORT RequestId")


def details(view: PipelineView, bucket: str, key: str) -> dict[str, Any]:
    """Return all that is known of an object, the newest first.

    Parameters
    ----------
    view
        The pipeline.
    bucket, key
        The object, as its rows name it.
    """
    traces = view.executions.of(key)
    dead = [message for message in view.dead_letters() if message.key == key]
    rows = _rows(view, bucket, key)
    return {
        "key": key,
        "bucket": bucket,
        "rows": rows,
        "dead": [
            {"id": message.id, "reason": message.reason, "sent": message.sent, "event": message.event}
            for message in dead
        ],
        "executions": [execution(view, trace, key) for trace in traces[:5]],
        "logs": _logs(view, key, traces, [*(row.get("event_time") for row in rows[:1]), *_times(dead)]),
    }


def execution(view: PipelineView, trace: Trace, key: str | None = None) -> dict[str, Any]:
    """Return an execution with the drawing of its states.

    Parameters
    ----------
    view
        The pipeline.
    trace
        The execution.
    key
        An object, if only its visits of states are wanted. Default: all.
    """
    machine = view.executions.machines[trace.machine]
    statuses = trace.statuses()
    messages = [id for id, known in trace.objects.items() if known == key]
    spans = trace.spans if key is None else {span: None for id in messages for span in trace.of(id)}
    return {
        "arn": trace.arn,
        "status": trace.status,
        "started": trace.started,
        "stopped": trace.stopped,
        "error": trace.error,
        "objects": list(dict.fromkeys(trace.objects.values()))[:200],
        "spans": [
            {
                "state": span.state,
                "kind": span.kind,
                "entered": span.entered,
                "left": span.left,
                "error": span.error,
                "attempts": span.attempts,
            }
            for span in spans
        ],
        "drawings": [
            {
                "title": graph.title.removeprefix(f"{machine.name}, inside of ") if number else "Workflow",
                "description": graph.description,
                "wide": _drawing(draw(graph, downwards=False), statuses),
                "narrow": _drawing(draw(graph, downwards=True), statuses),
            }
            for number, graph in enumerate(machine.workflow.levels())
            if number == 0 or any(node.id in statuses for node in graph.nodes)
        ],
    }


def _drawing(drawing: Drawing, statuses: dict[str, str]) -> dict[str, Any]:
    return {
        "width": drawing.width,
        "height": drawing.height,
        "arrows": [{"path": arrow.path, "head": arrow.head, "dashed": arrow.dashed} for arrow in drawing.arrows],
        "boxes": [
            {
                "x": box.x,
                "y": box.y,
                "width": box.width,
                "height": box.height,
                "title": box.title,
                "subtitle": box.subtitle,
                "name": box.node.title,
                "status": statuses.get(box.node.id, ""),
            }
            for box in drawing.boxes
        ],
    }


def _rows(view: PipelineView, bucket: str, key: str) -> list[dict[str, Any]]:
    if view.pipeline.table is None:
        return []
    dynamodb = aws.client(view.endpoint, "dynamodb", view.pipeline.env)
    found = dynamodb.query(
        TableName=view.pipeline.table,
        KeyConditionExpression="#object = :object",
        ExpressionAttributeNames={"#object": "object"},
        ExpressionAttributeValues={":object": {"S": f"{bucket}/{key}"}},
        ConsistentRead=True,
        ScanIndexForward=False,
        Limit=_MOST_ROWS,
    )["Items"]
    return sorted((values(item) for item in found), key=lambda row: str(row["recorded_at"]), reverse=True)


def _times(dead: Iterable[Message]) -> Iterator[object]:
    for message in dead:
        yield message.event.get("time")


def _logs(view: PipelineView, key: str, traces: Sequence[Trace], events: Iterable[object]) -> list[dict[str, Any]]:
    """Return what was logged of an object: the entries with its key, or with the id of a message that brought it.

    Without a workflow, they are looked for from the time of its event on.
    """
    began = [trace.started for trace in traces] or [at for event in events if (at := milliseconds(event))]
    if not began:
        return []
    ids = {id for trace in traces for id in trace.messages if trace.objects[id] == key}
    about = _names({key, json.dumps(key)[1:-1], *ids})
    parts = view.pipeline.parts
    since = min(began) - _BEFORE_MS
    until = traces[0].stopped + _AFTER_MS if traces and traces[0].stopped is not None else None
    events = log_events(view.endpoint, parts.functions, since=since, env=parts.env)
    found = [
        entry
        for entry in entries(event for event in events if until is None or event[0] <= until)
        if not _is_noise(entry["message"]) and about.search(entry["message"])
    ]
    return found[-_MOST_ENTRIES:]


def entries(events: Iterable[tuple[int, str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the entries of logs, each with its traceback, whose lines are separate events unless the log is JSON.

    Parameters
    ----------
    events
        Times, functions and messages, in order.
    """
    last: dict[str, dict[str, Any]] = {}  # by function
    inside: dict[str, bool] = {}
    order = []
    for at, function, message in events:
        begins = message.startswith(_TRACEBACK)
        if function in last and (begins or inside.get(function) or message.startswith(_CHAINS)):
            last[function]["traceback"] += f"{message.rstrip()}\n"
            # The first line that is not indented has the error, and ends it.
            inside[function] = begins or message.startswith(_CHAINS) or not message.strip() or message[0].isspace()
            continue
        last[function] = _entry(at, function, message)
        inside[function] = False
        order.append(last[function])
    for entry in order:
        yield entry | {"traceback": _CODE.sub('File "', entry["traceback"])[:_MOST_CHARACTERS]}


def _entry(at: int, function: str, message: str) -> dict[str, Any]:
    try:
        line = json.loads(message)
    except (ValueError, RecursionError):
        line = None
    line = line if isinstance(line, dict) and "message" in line else {"message": message.strip()}
    return {
        "at": at,
        "function": function,
        "level": str(line.get("level", "")),
        "message": str(line["message"])[:_MOST_CHARACTERS],
        "traceback": str(line.get("exception") or ""),
    }


def _names(names: Collection[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of some names, but not in a longer one, as 1.jpg is in 11.jpg."""
    # Only letters of ASCII join names: languages without spaces put theirs right next to a key.
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, names))})(?![\w-]|\.\w)", re.ASCII)


def _is_noise(message: str) -> bool:
    return message.startswith(_NOISE) or '"_aws"' in message
