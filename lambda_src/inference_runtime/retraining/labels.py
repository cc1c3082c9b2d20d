"""A label: what a person says of an object, and the checks before anybody trains with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

LONGEST_NAME = 256
"""Most characters of the name of whoever labels."""

LONGEST_KEY = 1024
"""Most bytes of a key, as in S3. Results cannot be queried by a key that is much longer."""

_AHEAD = timedelta(minutes=5)
"""By how much the clock of whoever labels may be fast. Besides, S3 tells times of uploads in whole seconds."""

_KNOWN = frozenset(("key", "label", "by", "at", "version_id"))


class LabelError(Exception):
    """A label cannot be taken; the message says why."""


@dataclass(frozen=True)
class Label:
    """The class that somebody says an object belongs to.

    Parameters
    ----------
    key
        Key of the object.
    label
        The class that it belongs to.
    by
        The name of whoever says so.
    at
        When, ISO 8601, UTC, in seconds or finer.
    version_id
        The version of the object that was looked at; empty if the newest one was.
    """

    key: str
    label: str
    by: str
    at: str
    version_id: str = ""


def parse(said: object, classes: Collection[str], now: datetime) -> Label:
    """Return a label that was sent.

    Parameters
    ----------
    said
        `{"key", "label", "by"}`, with ``at`` and ``version_id`` if they are known.
    classes
        The classes of the model.
    now
        The time, for labels without one. It is that of a label from shortly after it, too; one from later is refused.

    Raises
    ------
    LabelError
        It has other members or types, a class that the model does not have, or a time that nobody can have labelled at.
    """
    if not isinstance(said, dict):
        raise LabelError(f"a label must be a JSON object, got {_shown(said)}")
    unknown = sorted(map(str, said.keys() - _KNOWN))
    if unknown:
        raise LabelError(f"members must be {', '.join(sorted(_KNOWN))}, got {', '.join(unknown)[:LONGEST_NAME]}")
    key, label, by = (_text(said, name) for name in ("key", "label", "by"))
    if (size := len(key.encode())) > LONGEST_KEY:
        raise LabelError(f"key must be at most {LONGEST_KEY:,} bytes, got {size:,}")
    if label not in classes:
        raise LabelError(f"label must be one of the model's {len(classes)} classes, got {_shown(label)}")
    if len(by) > LONGEST_NAME:
        raise LabelError(f"by must be at most {LONGEST_NAME} characters, got {len(by)}")
    version_id = _text(said, "version_id") if "version_id" in said else ""
    return Label(key, label, by, _time(said, now), version_id)


def parse_lines(data: bytes) -> list[object]:
    """Return what the lines of a file say, each of which is JSON; a line that is not is a string."""
    found: list[object] = []
    # Not `splitlines`: a text in JSON may have Unicode's own separators of lines. Editors of Windows begin with a mark.
    for line in data.decode("utf-8-sig", "replace").split("\n"):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            found.append(line.rstrip("\r"))
    return found


def newest(labels: Iterable[Label]) -> list[Label]:
    """Return one label for each object: the newest, or the last of those from the same time."""
    found: dict[str, Label] = {}
    for label in labels:
        before = found.get(label.key)
        if before is None or label.at >= before.at:
            found[label.key] = label
    return list(found.values())


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value.strip():
        raise LabelError(f"{name} must be a string that is not empty, got {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LabelError(f"{name} must be valid Unicode, got {_shown(value)}") from None
    return value


def _time(said: dict[str, Any], now: datetime) -> str:
    if "at" not in said:
        return now.isoformat()
    text = _text(said, "at")
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise LabelError(f"at must have a time zone, got {_shown(text)}; append Z for UTC")
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise LabelError(f"at must be a time in ISO 8601, got {_shown(text)}") from None
    if at > now + _AHEAD:
        raise LabelError(f"at must not be after now, {now.isoformat(timespec='seconds')}, got {_shown(text)}")
    return min(at, now).isoformat()


def _shown(value: object) -> str:
    return ascii(value)[:100]
