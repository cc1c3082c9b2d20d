"""Why an object cannot be taken apart."""

from __future__ import annotations


class CorruptObjectError(Exception):
    """The object is not what its name claims: another format, truncated, or damaged. No retry helps."""


class ObjectGoneError(Exception):
    """The object was deleted or archived before its items were read. No retry helps."""


class SupersededError(Exception):
    """The object was overwritten after this event; the overwrite has another event."""


class TooLargeError(Exception):
    """The object is too large to be taken apart within the function's time. No retry helps."""
