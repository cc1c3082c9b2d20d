"""Reads an object with one JSON record, in bounded memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from inference_runtime.errors import RejectItem

_MAX_VALUES = 1_000_000
"""Most values of a record, at all depths: one takes up to 230 bytes, of as few as three in the file."""

_BEFORE_VALUES = ",:[{"  # one of these comes before each value but the first
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[,:\[{]', re.DOTALL)


class JsonObject:
    """The members of a JSON object.

    Parameters
    ----------
    data
        The object as a file has it.

    Raises
    ------
    RejectItem
        If it is something else, or far more than one record.
    """

    def __init__(self, data: bytes) -> None:
        self._repeated: frozenset[str] = frozenset()
        try:
            text = data.decode(json.detect_encoding(data))
            _refuse_many_values(text)
            record = json.loads(text, object_pairs_hook=self._members_of)
        except (ValueError, RecursionError) as error:
            raise RejectItem(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise RejectItem(f"JSON is {type(record).__name__}, expected an object")
        self._members = record

    def __getitem__(self, field: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a member.

        Raises
        ------
        RejectItem
            If there is none, or more than one.
        """
        if field not in self._members:
            raise RejectItem(f"field {field!r} is missing")
        if field in self._repeated:
            raise RejectItem(f"field {field!r} occurs more than once")
        return self._members[field]

    def __contains__(self, field: str) -> bool:
        return field in self._members

    def get(self, field: str, default: object) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a member, or the default if there is none.

        Raises
        ------
        RejectItem
            If there is more than one.
        """
        return self[field] if field in self._members else default

    def _members_of(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        # The object around all others comes last, so what is kept in the end is its own.
        names = Counter(name for name, _ in pairs) if len(members) < len(pairs) else {}
        self._repeated = frozenset(name for name, count in names.items() if count > 1)
        return members


def _refuse_many_values(text: str) -> None:
    if sum(map(text.count, _BEFORE_VALUES)) <= _MAX_VALUES:
        return
    # Most may be in strings, where they do not count. A record has no more strings than values and their names.
    values, most = 0, 2 * _MAX_VALUES
    for number, token in enumerate(_TOKEN.finditer(text)):
        values += text[token.start()] in _BEFORE_VALUES
        if values > _MAX_VALUES or number > most:
            raise RejectItem(f"JSON has more than {_MAX_VALUES:,} values, expected one record")
