"""Records of an audit log: what an event becomes, and the files that records are written to."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

RESULT, DECISION = "Inference Result", "Release Decision"
"""The detail types of the events for a row, and for a decision about a release."""

MODEL_CHANGE = "Model Change"
"""The type of the record of a deployment that changes a model."""

FOLDER = "records"

_OF_RESULTS = (
    "version",
    "status",
    "route",
    "variant",
    "model_version",
    "inference",
    "event_time",
    "recorded_at",
)


def pseudonym(secret: bytes, text: str) -> str:
    """Return what stands for a text in the log: its HMAC-SHA-256, in hexadecimal digits.

    A plain hash of a key or of a label could be found by trying likely ones. Without the secret, nobody can tell whom
    a record is about, so that deleting the secret anonymizes a log that cannot be changed.
    """
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def record(message: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """Return the record of an event.

    Parameters
    ----------
    message
        The name of the ``pipeline``, and the ``event`` of EventBridge.
    secret
        That of the log.

    Raises
    ------
    AttributeError, LookupError, TypeError, ValueError
        The event lacks what events of its type have.
    """
    event = message["event"]
    detail, kind = event["detail"], event["detail-type"]
    # The id that EventBridge gives is another one when an event is sent again.
    event_id = detail["event_id"] if kind == RESULT else detail.get("event_id", event["id"])
    told = {"record": _id(event_id), "time": event["time"], "type": kind, "pipeline": message["pipeline"]}
    if kind != RESULT:
        return {**told, "detail": _decided(detail, secret) if kind == DECISION else detail}
    told |= {name: detail[name] for name in _OF_RESULTS if detail.get(name)}
    told["object"] = pseudonym(secret, detail["object"])
    if detail.get("answer_sha256"):
        told["answer"] = pseudonym(secret, detail["answer_sha256"])
    return told


def _decided(detail: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """Return what is kept of a decision about a release: the last entry of the history, which the table keeps.

    The reason that an operator gives may name persons: a hash stands for it, which proves the text in the table.
    """
    history = detail["history"] or [{"S": "{}"}]  # it is empty if somebody wrote to the table by hand
    decision = json.loads(history[-1]["S"])
    if decision.get("by") == "operator":
        decision["reason"] = pseudonym(secret, decision["reason"])
    return {name: value for name, value in detail.items() if name != "history"} | {"decision": decision}


def model_change(request: dict[str, Any], time: str) -> dict[str, Any] | None:
    """Return the message about a change of models, or None if they are as they were.

    Parameters
    ----------
    request
        A request of CloudFormation to create or update a custom resource.
    time
        When it came, ISO 8601, UTC.
    """
    models = request["ResourceProperties"]["Models"]
    before = request.get("OldResourceProperties", {}).get("Models", {})
    if models == before:
        return None
    resource = {"stack": request["StackId"], "resource": request["LogicalResourceId"]}
    event = {"id": " ".join([*resource.values(), request["RequestId"]]), "time": time, "detail-type": MODEL_CHANGE}
    detail = {**resource, "models": models, "before": before}
    return {"pipeline": request["ResourceProperties"]["Pipeline"], "event": {**event, "detail": detail}}


def _id(event_id: str) -> str:
    return hashlib.sha256(event_id.encode()).hexdigest()[:32]


def files(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each file, by its key: those of a pipeline and a day, each once.

    The key follows from the records. So the same records are the same file again, whoever writes them.
    """
    days: dict[str, dict[str, dict[str, Any]]] = {}
    for one in records:
        days.setdefault(folder(one["pipeline"], one["time"][:10]), {})[one["record"]] = one
    found = {}
    for day, by_id in days.items():
        name = hashlib.sha256("".join(sorted(by_id)).encode()).hexdigest()
        found[f"{day}/{name}.jsonl"] = [by_id[each] for each in sorted(by_id)]
    return found


def folder(pipeline: str, date: str) -> str:
    """Return where the records of a pipeline and a day are."""
    return f"{FOLDER}/pipeline={pipeline.replace('/', '.')}/date={date}"


def lines(records: Iterable[dict[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    return "".join(f"{json.dumps(one, sort_keys=True)}\n" for one in records).encode()
