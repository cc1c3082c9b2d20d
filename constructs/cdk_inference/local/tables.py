"""Results in the terminal: a table of all, or all that is known of one object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from cdk_inference.common.escaping import clean_lines
from cdk_inference.local.uploads import DEAD_LETTER, SUCCEEDED, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cdk_inference.local.uploads import Outcome

_MOST_MEMBERS = 10  # of a list in the table of all results
_LINE = 60  # characters of JSON that stay on one line
_STYLES = {SUCCEEDED: "green", "REJECTED": "yellow", "FAILED": "red", DEAD_LETTER: "red"}
_FIRST = ("key", "status", "reason", "prediction", "model_version", "recorded_at")


def all_results(outcomes: Iterable[Outcome]) -> Table:
    """Return a table with the prediction of each object, or why it has none. Long lists are cut."""
    table = Table(
        Column("object", overflow="fold"),
        Column("status", no_wrap=True),
        Column("prediction, or reason", overflow="fold", ratio=1),
        Column("model", no_wrap=True),
        Column("seconds", justify="right", no_wrap=True),
    )
    for outcome in outcomes:
        table.add_row(
            _text(outcome.key),
            Text(outcome.status, _STYLES.get(outcome.status, "")),
            _text(_answer(outcome)),
            _text(outcome.model_version or ""),
            "" if outcome.seconds is None else f"{outcome.seconds:.2f}",
        )
    return table


def one_result(history: Sequence[Outcome]) -> list[Table]:
    """Return all attributes of the first outcome, and a line for each of the others if there are any.

    Parameters
    ----------
    history
        The outcomes of one object, as of `Pipeline.history`.
    """
    newest, *older = history
    attributes = plain(newest.row or {}) | {"key": newest.key, "status": newest.status}
    if newest.reason is not None:
        attributes["reason"] = newest.reason
    known = [name for name in _FIRST if name in attributes]
    table = Table(Column("attribute", no_wrap=True), Column("value", overflow="fold", ratio=1))
    for name in [*known, *sorted(attributes.keys() - set(known))]:
        value = attributes[name]
        shown = value if isinstance(value, str) else _indented(value)
        table.add_row(_text(name), Text(shown, _STYLES.get(shown, "")) if name == "status" else _text(shown))
    if not older:
        return [table]
    before = Table(
        Column("recorded before", no_wrap=True),
        Column("version", overflow="fold"),
        Column("status", no_wrap=True),
        Column("prediction, or reason", overflow="fold", ratio=1),
    )
    for outcome in older:
        row = outcome.row or {}
        before.add_row(
            _text(str(row.get("recorded_at") or row.get("time", ""))),
            _text(str(row.get("version", ""))),
            Text(outcome.status, _STYLES.get(outcome.status, "")),
            _text(_answer(outcome)),
        )
    return [table, before]


def _answer(outcome: Outcome) -> str:
    """Return a prediction in lines: label and score first, then a line for each other member."""
    if outcome.prediction is None:
        return outcome.reason or ""
    left = dict(outcome.prediction)
    lines = []
    if outcome.label is not None:
        lines.append(_labelled(left))
    lines += [f"{name}: {_short(value)}" for name, value in left.items()]
    return "\n".join(lines)


def _labelled(prediction: dict[str, Any]) -> str:
    """Take label, score and class index out of a prediction, and return the first two."""
    prediction.pop("class_index", None)
    label, score = prediction.pop("label"), prediction.pop("score", None)
    return str(label) if score is None else f"{label} {_short(score)}"


def _short(value: Any) -> str:  # noqa: ANN401 - any value of JSON
    match value:
        case str():
            return value
        case float():
            return f"{value:.3g}"
        case {"label": str()}:
            members = dict(value)
            return ", ".join([_labelled(members), *(f"{name} {_short(member)}" for name, member in members.items())])
        case dict():
            return "{" + ", ".join(f"{name}: {_short(member)}" for name, member in value.items()) + "}"
        case list():
            more = [f"… {len(value)} in all"] if len(value) > _MOST_MEMBERS else []
            return ", ".join([*map(_short, value[:_MOST_MEMBERS]), *more])
    return json.dumps(value)


def _indented(value: Any, indent: str = "") -> str:  # noqa: ANN401 - any value of JSON
    """Return JSON in which what fits a line is on one."""
    line = json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    match value:
        case dict() if len(line) > _LINE:
            members = [
                f"{inner}{json.dumps(name, ensure_ascii=False)}: {_indented(member, inner)}"
                for name, member in value.items()
            ]
            return "{\n" + ",\n".join(members) + f"\n{indent}}}"
        case list() if len(line) > _LINE and any(isinstance(member, dict | list) for member in value):
            return "[\n" + ",\n".join(f"{inner}{_indented(member, inner)}" for member in value) + f"\n{indent}]"
    return line


def _text(value: str) -> Text:
    """Return a text as it is: it may look like markup, but nothing in it moves the cursor."""
    return Text(clean_lines(value))
