"""The bytes of a token, as the decoder of a `tokenizer.json` has them.

There are two families. Byte-level tokenizers write each byte as a character. SentencePiece writes characters, a `▁` for
a space, and `<0xE2>` for a byte of a character that it has no token for.
"""

from __future__ import annotations

import re

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeAlias

    Decoder: TypeAlias = "ByteLevel | Pieces"

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_KNOWN = "ByteLevel, or Metaspace, Replace, ByteFallback, Fuse and Strip as SentencePiece's models have them"


class ByteLevel:
    """Each character of a token stands for a byte, as in GPT-2, Llama 3 and Qwen.

    Attributes
    ----------
    strip
        A character, and how many of it at the beginning of a text are left out.
    """

    strip = ("", 0)

    def __init__(self) -> None:
        self._known = _bytes_by_character()

    def bytes_of(self, token: str, *, first: bool) -> bytes:  # noqa: ARG002 - each decoder is asked alike
        """Return the bytes of a token, or those of its text if it has a character that stands for none."""
        try:
            return bytes([self._known[character] for character in token])
        except KeyError:
            return token.encode("utf-8", "surrogatepass")


class Pieces:
    """Each token is a text, in which strings are replaced, or a byte.

    Parameters
    ----------
    replaced
        Pairs of a string and what takes its place, in order.
    dropped
        A string that is left out of the first token, before anything is replaced; none if it is empty.
    has_bytes
        Whether a token such as `<0xE2>` is a byte.
    strip
        A character, and how many of it at the beginning of a text are left out.
    """

    def __init__(
        self, replaced: Sequence[tuple[str, str]], *, dropped: str, has_bytes: bool, strip: tuple[str, int]
    ) -> None:
        self._replaced = replaced
        self._dropped = dropped
        self._has_bytes = has_bytes
        self.strip = strip

    def bytes_of(self, token: str, *, first: bool) -> bytes:
        """Return the bytes of a token."""
        if first and self._dropped:
            token = token.replace(self._dropped, "")
        for old, new in self._replaced:
            token = token.replace(old, new)
        if self._has_bytes and _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return token.encode("utf-8", "surrogatepass")


def decoder_of(description: Mapping[str, Any] | None) -> Decoder:
    """Return the decoder that a `tokenizer.json` describes.

    Raises
    ------
    StageError
        If it is of another kind.
    """
    steps = _steps(description)
    kinds = [step.get("type") for step in steps]
    if kinds and set(kinds) == {"ByteLevel"}:
        return ByteLevel()
    if kinds == ["Metaspace"]:
        return _metaspace(steps[0])
    order = ("Replace", "ByteFallback", "Fuse", "Strip")
    known = kinds and all(kind in order for kind in kinds) and kinds == sorted(kinds, key=order.index)
    strips = [step for step in steps if step["type"] == "Strip"] if known else []
    replaced = [_replaced(step) for step in steps if step["type"] == "Replace"] if known else []
    # Before the tokens are fused, the beginning of each would be stripped.
    fused = not strips or (kinds.count("Strip") == 1 and "Fuse" in kinds and not strips[0].get("stop"))
    if not known or not fused or None in replaced:
        raise StageError(
            f"tokenizer must have a decoder of {_KNOWN}, got {' and '.join(map(str, kinds)) or None}: decode its "
            "tokens yourself"
        )
    strip = (strips[0]["content"], strips[0].get("start", 0)) if strips else ("", 0)
    return Pieces(replaced, dropped="", has_bytes="ByteFallback" in kinds, strip=strip)  # type: ignore[arg-type]


def _steps(description: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if description is None:
        return []
    if description.get("type") == "Sequence":
        return [step for part in description.get("decoders") or [] for step in _steps(part)]
    return [description]


def _metaspace(step: Mapping[str, Any]) -> Pieces:
    space = step["replacement"]
    dropped = "" if step.get("prepend_scheme") == "never" else space
    return Pieces([(space, " ")], dropped=dropped, has_bytes=False, strip=("", 0))


def _replaced(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a string and what takes its place; None for a regular expression, which may match in another way here."""
    pattern = step.get("pattern") or {}
    return (pattern["String"], step["content"]) if pattern.get("String") else None


def _bytes_by_character() -> dict[str, int]:
    """Return the byte that each character of a token stands for, as GPT-2's tokenizer writes them.

    Printable ones stand for themselves, and the others are moved to characters from 256 on
    (https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    found = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if chr(byte) not in found]
    return found | {chr(256 + place): byte for place, byte in enumerate(others)}
