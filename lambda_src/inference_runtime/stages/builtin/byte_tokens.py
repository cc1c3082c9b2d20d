"""Text of token numbers of a `tokenizer.json`: each token is some bytes.

Written without NumPy and without the package tokenizers, so that the function, a stream and the build compute the same
text with the same code.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder

from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.token_decoders import decoder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class ByteTokens:
    """The tokens of a byte-level tokenizer, or of one of SentencePiece.

    Parameters
    ----------
    description
        The content of a `tokenizer.json`. Its special tokens, such as the end of a message, are not part of a text.

    Raises
    ------
    StageError
        If it is that of another tokenizer.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._decoder = decoder_of(description.get("decoder"))
        self.strip = self._decoder.strip
        vocabulary = (description.get("model") or {}).get("vocab")
        if isinstance(vocabulary, list):  # of pairs of a token and its score, as Unigram has them
            vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
        if not isinstance(vocabulary, dict):
            raise StageError(f"tokenizer must have a vocabulary, got {type(vocabulary).__name__}: save it again")
        added = description.get("added_tokens") or []
        numbers = [*vocabulary.values(), *(token["id"] for token in added)]
        self._tokens: list[str | None] = [None] * (max(numbers, default=-1) + 1)
        for token, number in vocabulary.items():
            self._tokens[number] = token
        for token in added:
            self._tokens[token["id"]] = token["content"]
        self._special = frozenset(token["id"] for token in added if token.get("special"))

    def __len__(self) -> int:
        return len(self._tokens)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens. Bytes that are not UTF-8 are replaced.

        Raises
        ------
        StageError
            If the tokenizer has no such token.
        """
        stream = self.stream()
        return "".join([*map(stream.add, tokens), stream.rest()])

    def stream(self) -> TextStream:
        """Return what turns one token after the other into text."""
        return TextStream(self)

    def bytes_of(self, token: int, *, first: bool) -> bytes | None:
        """Return the bytes of a token; None for a special one.

        Parameters
        ----------
        token
            Its number.
        first
            Whether no other one but special ones came before.

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
        return None if token in self._special else self._decoder.bytes_of(found, first=first)


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
        self._first = True
        self._stripped, self._to_strip = tokens.strip

    def add(self, token: int) -> str:
        """Return the characters that a token completes, perhaps none.

        Raises
        ------
        StageError
            If the tokenizer has no such token.
        """
        found = self._tokens.bytes_of(token, first=self._first)
        if found is None:
            return ""
        self._first = False
        text = self._decoder.decode(found)
        while text and self._to_strip:
            begins = text[0] == self._stripped
            text, self._to_strip = (text[1:], self._to_strip - 1) if begins else (text, 0)
        return text

    def rest(self) -> str:
        """Return what stands for a character that was not completed."""
        return self._decoder.decode(b"", final=True)


def read_tokens(path: str) -> ByteTokens:
    """Return the tokens of a `tokenizer.json`.

    Raises
    ------
    StageError
        If its tokens have no text that is known here.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes milliseconds to import
        return ByteTokens(json.load(file))
