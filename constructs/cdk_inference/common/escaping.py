"""Text from recipes, data sets and tools, made harmless before it meets a page."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LONGEST = 500  # characters; what is longer belongs into a file, not onto a card

_REPLACED = "\N{REPLACEMENT CHARACTER}"
# Invisible characters that reorder the text around them: a name could make a sentence say its opposite.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKS_PER_LETTER = 4
_URL = re.compile(r"https?://[^\s<>\"'\\^`{|}\x00-\x20]+[^\s<>\"'\\^`{|}.,;:!?)\]\x00-\x20]", re.IGNORECASE)
# Characters with a meaning inside of a line of GitHub's Markdown; texts never stand at the start of one.
_MEANINGFUL = re.compile(
    r"[\\`*\[\]<|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[#\w])|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE
)
_REFERENCE = re.compile(r"[@#](?=\w)|#$")


def clean(text: str, limit: int = LONGEST) -> str:
    """Return one line without control characters, at most `limit` characters long."""
    kept = []
    marks = 0
    for char in text[: 4 * limit]:
        category = unicodedata.category(char)
        marks = marks + 1 if category == "Mn" else 0
        if char.isspace():
            kept.append(" ")
        elif category in ("Cc", "Cs") or ord(char) & 0xFFFE == 0xFFFE or char in _REORDERING:  # noqa: PLR2004
            kept.append(_REPLACED)
        elif marks <= _MARKS_PER_LETTER:
            kept.append(char)
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1].rstrip() + "…"


def clean_all(data: Any) -> Any:  # noqa: ANN401
    """Clean every string in JSON data, the keys too."""
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, list | tuple):
        return [clean_all(item) for item in data]
    if isinstance(data, dict):
        return {clean(str(key)): clean_all(value) for key, value in data.items()}
    return data


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape_markdown(value: object) -> str:
    """Return a value as text that GitHub shows as it is: no markup, HTML, link, mention or cell border in it."""
    if isinstance(value, Markdown):
        return str(value)
    text = _MEANINGFUL.sub(r"\\\g<0>", clean(str(value)))
    # Backslashes do not keep GitHub from notifying @somebody or linking #1; an invisible joiner does.
    return _REFERENCE.sub("\\g<0>\N{WORD JOINER}", text)


def split_urls(text: str) -> list[tuple[str, bool]]:
    """Split text into parts, each with whether it is an http(s) address."""
    parts = []
    end = 0
    for match in _URL.finditer(text):
        parts += [(text[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [(part, is_url) for part, is_url in [*parts, (text[end:], False)] if part]


def link_markdown(text: str) -> Markdown:
    """Escape text, and make links of the addresses in it."""
    return Markdown("".join(f"<{p}>" if is_url else escape_part(p) for p, is_url in split_urls(clean(text))))


def escape_part(text: str) -> str:
    """Escape a part of a line, whose outer spaces stay."""
    inner = text.strip()
    if not inner:
        return text
    before, _, after = text.partition(inner)
    return f"{before}{escape_markdown(inner)}{after}"


def fence(text: str, language: str) -> Markdown:
    """Return a code block that nothing in `text` can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def clean_lines(text: str) -> str:
    """Return lines without control characters; spaces at their starts stay."""
    return "\n".join(_visible(line) for line in text.split("\n"))


def _visible(line: str) -> str:
    return "".join(
        _REPLACED if unicodedata.category(char) in ("Cc", "Cs") or char in _REORDERING else char for char in line
    )
