"""The tokens of a tokenizer: their texts, and which of them stands in for a hidden one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from pathlib import Path

_MASKS = ("[MASK]", "<mask>")
_PADS = ("[PAD]", "<pad>", "<|endoftext|>")
_BYTE_SPACE, _PIECE_SPACE = "\u0120", "\u2581"  # what byte-level and sentence-piece tokenizers write for a space


@dataclass(frozen=True)
class Vocabulary:
    """The facts about a tokenizer that the runtime needs.

    Parameters
    ----------
    texts
        The text of each token, by its number.
    special
        The numbers of tokens that do not belong to a text.
    replacement
        The number of the token that stands in for a hidden one: a mask, otherwise padding, otherwise the unknown one.
    attended
        Whether the model attends to that token; padding is not attended to.
    """

    texts: tuple[str, ...]
    special: tuple[int, ...]
    replacement: int
    attended: bool

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a ``tokenizer.json``.

        Raises
        ------
        PropError
            It has no token that could stand in for a hidden one.
        """
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = content["model"].get("vocab", {})
        numbers = known if isinstance(known, dict) else {token: number for number, (token, _) in enumerate(known)}
        added = {each["content"]: each["id"] for each in content.get("added_tokens") or ()}
        special = {each["content"]: each["id"] for each in content.get("added_tokens") or () if each.get("special")}
        numbers = {**numbers, **added}
        replacement, attended = _replacement(content, numbers, path)
        texts = [""] * (1 + max(numbers.values(), default=0))
        readable = _bytes_read if any(token.startswith(_BYTE_SPACE) for token in numbers) else _pieces_read
        for token, number in numbers.items():
            texts[number] = token if token in added else readable(token)
        return cls(tuple(texts), tuple(sorted(special.values())), replacement, attended)

    @property
    def replacement_text(self) -> str:
        """The text of the token that stands in for a hidden one."""
        return self.texts[self.replacement]


def _replacement(content: dict[str, Any], numbers: dict[str, int], path: Path) -> tuple[int, bool]:
    for mask in _MASKS:
        if mask in numbers:
            return numbers[mask], True
    padding = (content.get("padding") or {}).get("pad_token")
    for pad in (padding, *_PADS):
        if pad in numbers:
            return numbers[pad], False
    unknown = content["model"].get("unk_token")
    if unknown is not None and unknown in numbers:
        return numbers[unknown], True
    raise PropError(
        f"tokenizer must have a token for masks, padding or what is unknown, got none in '{path}'; leave explain out"
    )


def _pieces_read(token: str) -> str:
    return token.replace(_PIECE_SPACE, " ")


def _bytes_read(token: str) -> str:
    """Return the text of a byte-level token, whose letters each stand for a byte, as those of GPT-2 do."""
    return bytes(_BYTES.get(letter, 0x3F) for letter in token).decode("utf-8", "replace")


def _letters_of_bytes() -> dict[str, int]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _letters_of_bytes()
