"""Byte-level tokens become the text that the library which wrote them makes of them, and never half a character."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.byte_tokens import ByteTokens, read_tokens
from inference_runtime.stages.builtin.transcript import transcript_postprocessor

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 290


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|pad|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a good film, a bad film, größer als 猫 and 👩‍🚀"], trainer)
    # Added tokens need not be written in characters that stand for bytes.
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("a b"), AddedToken("猫 猫")])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def library(file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(file))


@pytest.fixture(scope="module")
def tokens(file: Path) -> ByteTokens:
    return read_tokens(str(file))


@given(numbers=st.lists(st.integers(0, SIZE + 2), max_size=30))
def test_any_tokens_are_the_text_that_the_library_makes(
    library: Tokenizer, tokens: ByteTokens, numbers: list[int]
) -> None:
    assert len(tokens) == library.get_vocab_size() == SIZE + 3
    assert tokens.text(numbers) == library.decode(numbers, skip_special_tokens=True)


@given(text=st.text(max_size=20))
def test_a_stream_hands_out_whole_characters_alone(library: Tokenizer, tokens: ByteTokens, text: str) -> None:
    stream = tokens.stream()
    parts = [stream.add(number) for number in library.encode(text).ids]
    so_far = ""
    for part in parts:
        so_far += part
        assert text.startswith(so_far)
    assert (so_far, stream.rest()) == (text, "")


@given(numbers=st.lists(st.integers(0, SIZE + 2), max_size=30))
def test_a_stream_of_any_tokens_is_their_text(tokens: ByteTokens, numbers: list[int]) -> None:
    stream = tokens.stream()
    assert "".join([*map(stream.add, numbers), stream.rest()]) == tokens.text(numbers)


def test_the_row_has_the_text_up_to_the_length(file: Path, library: Tokenizer) -> None:
    numbers = library.encode("größer 👩‍🚀").ids
    postprocess = transcript_postprocessor(str(file), "tokens")
    outputs = {
        "tokens": np.array([*numbers, 0, 3, 4], np.int64),
        "lengths": np.array(len(numbers), np.int64),
        "scores": np.array(-2.5, np.float32),
    }
    assert postprocess(outputs, None) == {"text": "größer 👩‍🚀", "score": -2.5}  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [-1, SIZE + 3])
def test_a_token_that_the_tokenizer_lacks_fails(tokens: ByteTokens, number: int) -> None:
    with pytest.raises(StageError, match=f"a token {number}"):
        tokens.text([0, number])


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece"}, {"type": "Sequence", "decoders": []}])
def test_another_tokenizer_is_refused(file: Path, decoder: object) -> None:
    description = json.loads(file.read_text("utf-8")) | {"decoder": decoder}
    with pytest.raises(StageError, match="decoder of type ByteLevel"):
        ByteTokens(description)
    whole = description | {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}}
    assert ByteTokens(whole).text([5]) == read_tokens(str(file)).text([5])
