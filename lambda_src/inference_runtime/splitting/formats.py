"""The parts that all formats of objects with many items have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference_runtime.splitting.source import Source
    from inference_runtime.stages.byte_range import ByteRange


class Entry(NamedTuple):
    """An item, as far as planning needs to know it.

    Attributes
    ----------
    number
        The number of the item in the object.
    id
        Its id. None if the format knows none besides the number, and empty if this item lacks it.
    size
        The bytes that reading it takes.
    position
        Where a chunk begins whose first item this is; None if none can begin there.
    """

    number: int
    id: str | None
    size: int
    position: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an object that has whole items.

    Attributes
    ----------
    start, end
        Where it begins and ends, as the format counts: bytes, or row groups. None for the end of the object.
    number
        The number of its first item.
    head
        The part before the items that each chunk needs, such as the header of a CSV file. None before it was read.
    by_number
        The numbers of the items that an earlier one has the id of, or True if that is said of all. None before it was
        looked at, as in a chunk that is the whole object.
    """

    start: int = 0
    end: int | None = None
    number: int = 1
    head: str | None = None
    by_number: list[int] | bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An item that was found in an object.

    Attributes
    ----------
    number, id
        As those of `Entry`.
    data
        The bytes for preprocessing; None if they are many.
    range
        Where they are in the object; None if they are nowhere as such.
    blocks
        The same bytes, if they are many and have no range. They are there until the next item is asked for.
    """

    number: int
    id: str | None = None
    data: bytes | None = None
    range: ByteRange | None = None
    blocks: Iterator[bytes] | None = None


class Restart(NamedTuple):
    """A place between two items of a chunk where another call may go on, if this one has no time left.

    Attributes
    ----------
    chunk
        The chunk of the items after this place.
    """

    chunk: Chunk


class Format(Protocol):
    """A format of objects with many items."""

    def splits(self, source: Source) -> bool:
        """Tell whether an object can be read from elsewhere than its beginning."""

    def head(self, source: Source) -> str | None:
        """Return what every chunk has to know, if there is anything.

        Raises
        ------
        CorruptObjectError
            It is not an object of this format.
        """

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the items of an object, in their order, as planning needs them.

        Raises
        ------
        CorruptObjectError
            It is not an object of this format.
        """

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found | Restart]:
        """Yield the items of a chunk, in their order, and places to go on from where skipping items takes long.

        Raises
        ------
        CorruptObjectError
            It is not an object of this format.
        """
