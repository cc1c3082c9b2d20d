"""Input templates of EventBridge Pipes, applied to messages and records as AWS documents it.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(r"<(\$[^<>]*|aws\.pipes\.[a-z.-]+)>")
_STEP = re.compile(r"\.([A-Za-z0-9_/-]+)|\[(\d+|\*)\]|\['([^']+)'\]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[][{}]")
_DEEPEST = 200  # a deeper body stays text, so that it cannot exhaust the stack; AWS's limit is not documented
_EVENT = "aws.pipes.event"
_MISSING = object()


def render(template: str | None, record: Mapping[str, Any], variables: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Apply an input template to one record.

    Parameters
    ----------
    template
        The template, or None to take the record as it is.
    record
        The record as the source delivers it. ``body`` may hold JSON as a string, and ``data`` in base64: paths lead
        into them.
    variables
        Values of the reserved variables that are not the event, such as ``aws.pipes.pipe-name``.

    Returns
    -------
    object
        The target's input: the parsed JSON.

    Raises
    ------
    LocalError
        If the result is not JSON.
    """
    if template is None:
        return dict(record)
    parsed = _parsed(record)
    known = dict(variables) | {_EVENT: dict(record), f"{_EVENT}.json": parsed}

    def value(match: re.Match[str]) -> Any:  # noqa: ANN401
        name = match.group(1)
        return _select(parsed, name) if name.startswith("$") else known.get(name, _MISSING)

    def inside_string(match: re.Match[str]) -> str:
        return _VARIABLE.sub(lambda variable: _as_text(value(variable)), match.group())

    def bare(match: re.Match[str]) -> str:
        found = value(match)
        # AWS leaves a variable out that has no value; the empty string keeps the document valid.
        return json.dumps("" if found is _MISSING else found)

    # Strings first: what a variable brings in must not be searched for variables again.
    pieces: list[str] = []
    end = 0
    for string in _STRING.finditer(template):
        pieces += [_VARIABLE.sub(bare, template[end : string.start()]), inside_string(string)]
        end = string.end()
    pieces.append(_VARIABLE.sub(bare, template[end:]))
    text = "".join(pieces)
    try:
        return json.loads(text)
    except ValueError as error:
        raise LocalError(f"the input template must give JSON, got {text[:300]!r}: {error}") from error


def _parsed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with JSON in place of a body that is a string of it, or of data that is its base64."""
    found = dict(record)
    texts = {"body": record.get("body")}
    if isinstance(record.get("data"), str):
        with suppress(ValueError):
            texts["data"] = base64.b64decode(record["data"]).decode()
    for name, text in texts.items():
        if isinstance(text, str) and _depth(text) <= _DEEPEST:
            with suppress(ValueError):
                found[name] = json.loads(text)
    return found


def _depth(text: str) -> int:
    """Return how deep the brackets of a JSON text are nested, without parsing it."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _select(document: Any, path: str) -> Any:  # noqa: ANN401
    rest = path.removeprefix("$")
    if "".join(step.group() for step in _STEP.finditer(rest)) != rest:
        raise LocalError(f"the input template must have paths that pipes know, got {path!r}")
    found = document
    for position, step in enumerate(_STEP.finditer(rest)):
        name, index, quoted = step.groups()
        if index == "*":
            if not isinstance(found, list):
                return _MISSING
            tail = "".join(later.group() for later in list(_STEP.finditer(rest))[position + 1 :])
            picked = [_select(element, f"${tail}") for element in found]
            return [element for element in picked if element is not _MISSING]
        if index is not None:
            if not isinstance(found, list) or int(index) >= len(found):
                return _MISSING
            found = found[int(index)]
        else:
            key = name if name is not None else quoted
            if not isinstance(found, dict) or key not in found:
                return _MISSING
            found = found[key]
    return found


def _as_text(found: Any) -> str:  # noqa: ANN401
    """Return a value as part of a JSON string: AWS takes the quotes out of objects and arrays there."""
    if found is _MISSING:
        return ""
    if isinstance(found, (dict, list)):
        return json.dumps(found).replace('"', "").replace("\\", "")
    text = found if isinstance(found, str) else json.dumps(found)
    return json.dumps(text)[1:-1]
