"""Names of items, which are unique in their object."""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import TYPE_CHECKING

from inference_runtime.stages.item import MAX_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection

MOST_IDS = 2_000_000
"""Ids that are remembered, which take about 70 bytes each. Items that come after them are named by number."""


_MOST_KEY_BYTES = MAX_ID_BYTES - 24  # two signs and a number of 20 digits come after it
_KEPT_KEY_BYTES = _MOST_KEY_BYTES - 24


class SeenIds:
    """Tells which ids of an object are new, in bounded memory.

    Two ids may have one hash, and one of them is then not new. That changes a name, and loses nothing.
    """

    def __init__(self, most: int = MOST_IDS) -> None:
        self._most = most
        self._hashes: set[int] = set()

    def is_new(self, found: str) -> bool:
        """Tell whether an id is new, and remember it; none is when there are too many."""
        if len(self._hashes) >= self._most:
            return False
        before = len(self._hashes)
        self._hashes.add(int.from_bytes(blake2b(found.encode("utf-8", "replace"), digest_size=8).digest()))
        return len(self._hashes) > before


class Names:
    """Names the items of a chunk.

    An item without an id is ``KEY#7``, by its number. One with an id is ``KEY#ID``. If its id is no good, or was in the
    object before, it is ``KEY##7``: no id begins so.

    Parameters
    ----------
    key
        Key of the object, with which each name begins. A very long one is shortened.
    by_number
        See `Chunk`.
    """

    def __init__(self, key: str, by_number: Collection[int] | bool | None) -> None:
        self._key = shortened(key)
        self._all = by_number is True
        self._by_number = frozenset() if by_number is None or isinstance(by_number, bool) else frozenset(by_number)
        self._seen = SeenIds() if by_number is None else None

    def name(self, number: int, found: str | None) -> str:
        """Return the name of the next item of the chunk, whose id may be None, or empty if it should have one."""
        if found is None:
            return f"{self._key}#{number}"
        name = f"{self._key}#{found}"
        if is_id(found) and _fits(name) and not self._is_repeated(number, found):
            return name
        return f"{self._key}##{number}"

    def _is_repeated(self, number: int, found: str) -> bool:
        if self._seen is not None:
            return not self._seen.is_new(found)
        return self._all or number in self._by_number


def is_id(found: str) -> bool:
    """Tell whether an item can be named by a text."""
    return bool(found) and not found.startswith("#")


def shortened(key: str) -> str:
    """Return a key, or the beginning of a very long one and a hash."""
    data = key.encode()
    if len(data) <= _MOST_KEY_BYTES:
        return key
    return f"{data[:_KEPT_KEY_BYTES].decode(errors='ignore')}~{sha256(data).hexdigest()[:16]}"


def _fits(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return False
