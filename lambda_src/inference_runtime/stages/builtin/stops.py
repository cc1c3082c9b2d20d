"""Ends a text before the first of some strings, whatever parts the text comes in."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


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


def cut(text: str, strings: Sequence[str]) -> str:
    """Return a text up to the first of some strings."""
    stops = Stops(strings)
    return stops.add(text) + stops.rest()


def _beginning(text: str, string: str) -> int:
    """Return how many characters at the end of a text are the beginning of a string."""
    most = min(len(text), len(string) - 1)
    return next((count for count in range(most, 0, -1) if text.endswith(string[:count])), 0)
