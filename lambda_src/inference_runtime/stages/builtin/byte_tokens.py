"""Text of token numbers of a byte-level tokenizer (BPE), as those of GPT-2, Llama 3 and Qwen: each token is some bytes.

Written without NumPy and without the package tokenizers, so that the function, a stream and the build compute the same
text with the same code.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_BYTE_LEVEL = "ByteLevel"


class ByteTokens:
    """The tokens of a byte-level tokenizer.

    Parameters
    ----------
    description
        The content of a `tokenizer.json`. Its special tokens, such as the end of a message, are not part of a text.

    Raises
    ------
    StageError
        If it is not that of a byte-level tokenizer.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        vocabulary = (description.get("model") or {}).get("vocab")
        if not isinstance(vocabulary, dict) or not _is_byte_level(description.get("decoder")):
            kind = (description.get("decoder") or {}).get("type")
            raise StageError(
                f"tokenizer must have a decoder of type {_BYTE_LEVEL}, got {kind}: decode its tokens yourself"
            )
        known = _bytes_by_character()
        added = description.get("added_tokens") or []
        numbers = [*vocabulary.values(), *(token["id"] for token in added)]
        self._tokens: list[bytes | None] = [None] * (max(numbers, default=-1) + 1)
        for token, number in vocabulary.items():
            self._tokens[number] = _decoded(token, known)
        for token in added:
            self._tokens[token["id"]] = b"" if token.get("special") else _decoded(token["content"], known)

    def __len__(self) -> int:
        return len(self._tokens)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens. Bytes that are not UTF-8 are replaced.

        Raises
        ------
        StageError
            If the tokenizer has no such token.
        """
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        """Return what turns one token after the other into text."""
        return TextStream(self)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token, none of a special one.

        Raises
        ------
        StageError
            If the tokenizer has no such token.
        """
        found = self._tokens[token] if 0 <= token < len(self._tokens) else None
        if found is None:
            raise StageError(
                f"the tokenizer must have every token of the model, got {len(self)} tokens, and a token {token}: take "
                "the tokenizer.json of the model"
            )
        return found


class TextStream:
    """Turns one token after the other into text, and keeps the bytes of a character until all of them are there.

    Parameters
    ----------
    tokens
        Those of the tokenizer.
    """

    def __init__(self, tokens: ByteTokens) -> None:
        self._tokens = tokens
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Return the characters that a token completes, perhaps none.

        Raises
        ------
        StageError
            If the tokenizer has no such token.
        """
        return self._decoder.decode(self._tokens.bytes_of(token))

    def rest(self) -> str:
        """Return what stands for a character that was not completed."""
        return self._decoder.decode(b"", final=True)


def read_tokens(path: str) -> ByteTokens:
    """Return the tokens of a `tokenizer.json`.

    Raises
    ------
    StageError
        If it is not that of a byte-level tokenizer.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes milliseconds to import
        return ByteTokens(json.load(file))


def _is_byte_level(decoder: Mapping[str, Any] | None) -> bool:
    if decoder is None:
        return False
    if decoder.get("type") == "Sequence":
        parts = decoder.get("decoders") or []
        return bool(parts) and all(map(_is_byte_level, parts))
    return decoder.get("type") == _BYTE_LEVEL


def _decoded(token: str, known: Mapping[str, int]) -> bytes:
    """Return the bytes of a token: one a character, or those of its text if it has a character that stands for none."""
    try:
        return bytes([known[character] for character in token])
    except KeyError:
        return token.encode("utf-8", "surrogatepass")


def _bytes_by_character() -> dict[str, int]:
    """Return the byte that each character of a token stands for, as GPT-2's tokenizer writes them.

    Printable ones stand for themselves, and the others are moved to characters from 256 on
    (https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    found = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if chr(byte) not in found]
    return found | {chr(256 + place): byte for place, byte in enumerate(others)}
