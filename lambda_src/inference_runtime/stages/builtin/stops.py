"""Ends a text before the first of some strings, whatever parts the text comes in."""

from __future__ import annotations

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from inference_runtime.stages.builtin.byte_tokens import TextStream

STOP = "stop"
"""The value that preprocessing keeps: a list of strings before the first of which the text of this item ends."""


class Stops:
    """Passes on the parts of a text until one of some strings is complete.

    If strings overlap, the one that is complete first counts. So a text ends in the same place in one part and in many.

    Parameters
    ----------
    strings
        None of them is empty.

    Attributes
    ----------
    reached
        Whether one has come.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""
        self.reached = False

    def add(self, part: str) -> str:
        """Return the characters that are surely not of such a string, perhaps none."""
        if self.reached:
            return ""
        text = self._held + part
        found = [(place + len(one), place) for one in self._strings if (place := text.find(one)) >= 0]
        if found:
            _, place = min(found)
            self.reached, self._held = True, ""
            return text[:place]
        held = max((_beginning(text, one) for one in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Return the end of a text that none of the strings has ended."""
        rest, self._held = self._held, ""
        return rest


class TextEnd:
    """Tells of each token of a text whether a string is complete with it.

    Parameters
    ----------
    text
        That of no token yet.
    strings
        None of them is empty.
    """

    def __init__(self, text: TextStream, strings: Sequence[str]) -> None:
        self._text = text
        self._stops = Stops(strings)

    def __call__(self, token: int) -> bool:
        """Return whether the text ends with the next token."""
        try:
            self._stops.add(self._text.add(token))
        except StageError:  # postprocessing says of each item that the tokenizer has no such token
            return False
        return self._stops.reached


def stops_of(kept: Mapping[str, Any]) -> list[str]:
    """Return the strings that preprocessing kept for an item. A user's function may keep something else so."""
    found = kept.get(STOP)
    return [one for one in found if isinstance(one, str) and one] if isinstance(found, list) else []


def cut(text: str, strings: Sequence[str]) -> str:
    """Return a text up to the first of some strings."""
    stops = Stops(strings)
    return stops.add(text) + stops.rest()


def _beginning(text: str, string: str) -> int:
    """Return how many characters at the end of a text are the beginning of a string."""
    most = min(len(text), len(string) - 1)
    return next((count for count in range(most, 0, -1) if text.endswith(string[:count])), 0)
