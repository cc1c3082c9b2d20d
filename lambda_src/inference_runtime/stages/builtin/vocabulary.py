"""Text of token numbers: what a decoder, or a recognizer with blanks (CTC), says.

Written without NumPy, so that the function and the build compute the same text with the same code.
"""

from __future__ import annotations

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from inference_runtime.stages.builtin.byte_tokens import ByteTokens

    Tokens: TypeAlias = "Vocabulary | ByteTokens"

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Stands for a space in a token, as SentencePiece writes it."""

LENGTHS = "lengths"
"""The output that says how many of an item's tokens count: a decoder repeats its end token after them."""


class Vocabulary:
    """The tokens of a model.

    Parameters
    ----------
    lines
        One token a line: its number is that of the line, from 0. Tokens in angle brackets, such as ``</s>``, are not
        part of a text. A ``▁`` is a space.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._tokens = ["" if _is_special(line) else line.replace(SPACE, " ") for line in lines]

    def __len__(self) -> int:
        return len(self._tokens)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, without spaces at its ends.

        Raises
        ------
        StageError
            If the vocabulary has no such token.
        """
        known = self._tokens
        numbers = list(tokens)
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(known):
            raise StageError(
                f"the vocabulary must have every token of the model, got {len(known)} tokens, and a token "
                f"{max(numbers)}: give it a line for each"
            )
        return "".join([known[number] for number in numbers]).strip()


def read_vocabulary(path: str) -> Tokens:
    """Return the tokens in a file: one a line, or those of a tokenizer if it is a `tokenizer.json`.

    Raises
    ------
    StageError
        If it is the file of another tokenizer.
    """
    if path.endswith(".json"):
        from inference_runtime.stages.builtin.byte_tokens import read_tokens  # noqa: PLC0415 - few models have one

        return read_tokens(path)
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes milliseconds to import
        return Vocabulary([line.removesuffix("\n") for line in file])


def collapsed(classes: Sequence[int], blank: int) -> list[int]:
    """Return the tokens of the likeliest classes of each frame: repeated ones count once, and blanks do not.

    This is best path decoding (Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, section 3.2).
    """
    before = [blank, *classes]
    return [one for last, one in zip(before, classes, strict=False) if one not in (blank, last)]


def _is_special(line: str) -> bool:
    return len(line) > 2 and line[0] == "<" and line[-1] == ">"  # noqa: PLR2004 - the brackets
