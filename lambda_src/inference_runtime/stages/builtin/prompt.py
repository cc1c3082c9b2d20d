"""Puts a text into a prompt, so that the prompt is whole and the text cannot pass for a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference_runtime.errors import RejectItem

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PLACE = "{text}"


class Prompt:
    """A prompt with a place for a text.

    Parameters
    ----------
    tokenizer
        Without truncation. It may pad.
    template
        The prompt, with `{text}` once.
    max_length
        Most tokens, special ones included.
    side
        The side of a long text that goes: `right` or `left`.

    Raises
    ------
    ValueError
        If the prompt has no place or several, or leaves the text no room.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, max_length: int, side: str) -> None:
        if template.count(PLACE) != 1:
            raise ValueError(f"prompt is {template!r}, expected one {PLACE} in it")
        self._before, _, self._after = template.partition(PLACE)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._from_right = side == "right"
        self._markup = sorted(
            (form, token.content)
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.special
            for form in {token.content, self._normal(token.content) if token.normalized else token.content} - {""}
        )
        if (fixed := _length(self._encode(""))) >= max_length:
            raise ValueError(f"max_length is {max_length}, but the prompt alone has {fixed} tokens")

    def encode(self, text: str) -> tuple[Encoding, bool]:
        """Return the tokens of the prompt with as much of the text as there is room for, and whether that is all of it.

        Raises
        ------
        RejectItem
            If the text has nothing that the tokenizer keeps, or holds markup of the model, such as the token that ends
            a message. Or the prompt leaves no room for any character of it.
        """
        # Normalized, a full-width bracket is a plain one: the tokenizer finds the token then, or has it as a word.
        forms = (text, self._normal(text))
        if found := next((token for form, token in self._markup if any(form in each for each in forms)), None):
            raise RejectItem(f"text contains {found!r}, which the model takes for markup of the prompt")
        if not _length(self._tokenizer.encode(text, add_special_tokens=False)):
            raise RejectItem("text is empty: it has nothing but characters that the tokenizer drops")
        whole = True
        while (excess := _length(encoding := self._encode(text)) - self._max_length) > 0:
            # Tokens join at the borders, so that what was cut out may not be enough yet.
            text, whole = self._shortened(text, excess), False
            if not text:
                raise RejectItem(f"text has no character that fits into {self._max_length:,} tokens with the prompt")
        return encoding, whole

    def _normal(self, text: str) -> str:
        """Return a text as the tokenizer normalizes it before it takes it apart."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(f"{self._before}{text}{self._after}")

    def _shortened(self, text: str, excess: int) -> str:
        """Cut tokens off a text, at least one character of it."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans = [span for span, real in zip(encoding.offsets, encoding.attention_mask, strict=True) if real]
        if excess >= len(spans):
            return ""
        if self._from_right:
            return text[: min(spans[-excess][0], len(text) - 1)]
        return text[max(spans[excess - 1][1], 1) :]


def _length(encoding: Encoding) -> int:
    """Return the number of tokens without those that pad."""
    return sum(encoding.attention_mask)
