"""Where the bytes of items come from: `s3_source` in AWS, other stores elsewhere; see `inference_runtime.anywhere`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from inference_runtime.stages.item import Item

EXPLAIN = "explain"
"""The metadata of an object, with the value `true`, by which its uploader asks for an explanation."""


class SupersededError(Exception):
    """The object was overwritten after this event; the overwrite has another event."""


class UnreadableError(Exception):
    """The object cannot be read now."""


class SourceTimeoutError(UnreadableError):
    """The store did not answer, so that the rest of the batch would take as long."""


class Content(NamedTuple):
    """The bytes of an item, and whether its object asks for an explanation."""

    data: bytes
    asked: bool = False


class ObjectSource(Protocol):
    """A store of objects, which threads share."""

    def read(self, item: Item) -> Content:
        """Read the version of an object that an item is about, and no later one.

        Parameters
        ----------
        item
            An object, or a part of one.

        Raises
        ------
        RejectItem
            The object can never be read, such as one that no longer exists.
        SupersededError
            The object was overwritten.
        UnreadableError
            The object cannot be read now.
        """
