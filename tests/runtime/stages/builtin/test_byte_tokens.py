"""Tokens become the text that the library which wrote them makes of them, and never half a character."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.stages.builtin import tokenizers_of
from tests.runtime.stages.builtin.tokenizers_of import KINDS
from tokenizers import Tokenizer

from inference_runtime.errors import RejectItem, StageError
from inference_runtime.stages.builtin.byte_tokens import ByteTokens, read_tokens
from inference_runtime.stages.builtin.text import text_preprocessor
from inference_runtime.stages.builtin.transcript import transcript_postprocessor
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = "\N{REPLACEMENT CHARACTER}"

kinds = st.sampled_from(KINDS)
numbers = st.lists(st.integers(0, 2**16), max_size=30)
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \u2581\u00e9\u732ba\n"), max_size=20)


def with_whole_characters(library: Tokenizer, ids: list[int]) -> list[int]:
    """Return tokens in which bytes that are not UTF-8 are the bytes of what replaces them.

    The library gives up all bytes in a row if some are not UTF-8. Here, the others are characters.
    """
    found: list[int] = []
    row = b""
    for number in [*ids, None]:
        token = "" if number is None else library.id_to_token(number)
        if token.startswith("<0x"):
            row += bytes.fromhex(token[3:5])
        elif token not in tokenizers_of.SPECIAL:
            text = row.decode("utf-8", "replace")
            found += [library.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
            found, row = found if number is None else [*found, number], b""
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for kind in KINDS:
        found[kind] = folder / kind / "tokenizer.json"
        found[kind].parent.mkdir()
        found[kind].write_text(json.dumps(tokenizers_of.description(kind)), "utf-8")
    return found


@pytest.fixture(scope="module")
def libraries(files: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.from_file(str(file)) for kind, file in files.items()}


@pytest.fixture(scope="module")
def tokens(files: dict[str, Path]) -> dict[str, ByteTokens]:
    return {kind: read_tokens(str(file)) for kind, file in files.items()}


@given(kind=kinds, chosen=numbers)
def test_any_tokens_are_the_text_that_the_library_makes(
    libraries: dict[str, Tokenizer], tokens: dict[str, ByteTokens], kind: str, chosen: list[int]
) -> None:
    library, ours = libraries[kind], tokens[kind]
    assert len(ours) == library.get_vocab_size()
    ids = [number % len(ours) for number in chosen]
    assert ours.text(ids) == library.decode(with_whole_characters(library, ids), skip_special_tokens=True)


@given(kind=kinds, text=texts)
def test_a_stream_hands_out_whole_characters_of_the_text_that_the_library_makes(
    libraries: dict[str, Tokenizer], tokens: dict[str, ByteTokens], kind: str, text: str
) -> None:
    ids = libraries[kind].encode(text).ids
    expected = libraries[kind].decode(ids)
    stream = tokens[kind].stream()
    so_far = ""
    for part in map(stream.add, ids):
        so_far += part
        assert expected.startswith(so_far)
    assert (so_far, stream.rest()) == (expected, "")
    if kind not in ("t5", "never"):  # which have no tokens for bytes
        assert expected.strip(" ") == text.replace("\u2581", "\u2581" if kind == "byte_level" else " ").strip(" ")


@given(kind=kinds, chosen=numbers)
def test_a_stream_of_any_tokens_is_their_text(tokens: dict[str, ByteTokens], kind: str, chosen: list[int]) -> None:
    ids = [number % len(tokens[kind]) for number in chosen]
    stream = tokens[kind].stream()
    assert "".join([*map(stream.add, ids), stream.rest()]) == tokens[kind].text(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_row_has_the_text_up_to_the_length(
    files: dict[str, Path], libraries: dict[str, Tokenizer], kind: str
) -> None:
    ids = libraries[kind].encode("the film 0.3").ids
    postprocess = transcript_postprocessor(str(files[kind]), "tokens")
    outputs = {
        "tokens": np.array([*ids, 0, 3, 4], np.int64),
        "lengths": np.array(len(ids), np.int64),
        "scores": np.array(-2.5, np.float32),
    }
    item = Item.from_message(
        {"message_id": "m", "body": "a", "item": {"source": "arn:aws:sqs:::q", "id": "i", "sequence": "0", "time": "0"}}
    )
    assert postprocess(outputs, item) == {"text": "the film 0.3", "score": -2.5}
    assert postprocess.text_end(item) is None
    stopping = transcript_postprocessor(str(files[kind]), "tokens", stop=["lm 0", "0.3"])
    assert stopping(outputs, item)["text"] == "the fi"
    for stage, kept, said in ((stopping, [], "the fi"), (postprocess, ["film"], "the "), (stopping, ["he"], "t")):
        own = replace(item, kept={"stop": kept})
        assert stage(outputs, own)["text"] == said
        begin = stage.text_end(own)
        assert begin is not None
        ends = begin()
        last = [ends(token) for token in ids].index(True)
        # It ends as soon as the tokens have one of the strings, and with none before.
        short = [postprocess({**outputs, "lengths": np.array(n)}, item)["text"] for n in (last, last + 1)]
        assert [any(one in text for one in (*stage._stop, *kept)) for text in short] == [False, True]
        assert not begin()(len(libraries[kind].get_vocab()) + 9)  # postprocessing tells of such a token
    assert postprocess(outputs, replace(item, kept={"stop": 7}))["text"] == "the film 0.3"  # something else of a user


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_holds_a_text_of_any_tokenizer_and_as_much_as_fits(
    files: dict[str, Path], tokens: dict[str, ByteTokens], kind: str
) -> None:
    inputs, options = {"input_ids": "int64", "attention_mask": "int64"}, {"max_length": 48, "pad_to_multiple_of": 8}
    preprocess = text_preprocessor(str(files[kind]), inputs, prompt="ab {text} cd", **options)  # type: ignore[arg-type]

    def prompt(text: str) -> str:
        arrays = preprocess(text.encode(), None)  # type: ignore[arg-type]
        return tokens[kind].text(arrays["input_ids"][arrays["attention_mask"] == 1].tolist())

    assert prompt("the film") == "ab the film cd"
    for long in ("the film " * 20, "é" * 200, "猫é a " * 60):
        said = prompt(long)
        assert re.fullmatch("ab (.+) cd", said)
        assert UNKNOWN not in said
        assert long.startswith(said[3:-3])
    if kind != "byte_level":
        with pytest.raises(RejectItem, match="'</s>', which the model takes for markup"):
            prompt("the end</s>")


@pytest.mark.parametrize("kind", ["byte_level", "llama"])
@pytest.mark.parametrize("number", [-1, 2**16])
def test_a_token_that_the_tokenizer_lacks_fails(tokens: dict[str, ByteTokens], kind: str, number: int) -> None:
    with pytest.raises(StageError, match=f"a token {number}"):
        tokens[kind].text([0, number])


REPLACE, FUSE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "Fuse"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece"},
        {"type": "Sequence", "decoders": []},
        {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, FUSE]},
        {"type": "Sequence", "decoders": [REPLACE, STRIP]},
        {"type": "Sequence", "decoders": [REPLACE, FUSE, STRIP | {"stop": 1}]},
        {"type": "Sequence", "decoders": [FUSE, REPLACE]},
        {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "a+"}, "content": " "}]},
    ],
)
def test_a_decoder_of_another_kind_is_refused(decoder: Any) -> None:
    description = tokenizers_of.description("byte_level")
    with pytest.raises(StageError, match=r"decoder of ByteLevel, or Metaspace, .* decode its tokens yourself"):
        ByteTokens(description | {"decoder": decoder})


def test_a_sequence_of_one_decoder_is_that_decoder() -> None:
    description = tokenizers_of.description("byte_level")
    whole = description | {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}}
    assert ByteTokens(whole).text([5, 70]) == ByteTokens(description).text([5, 70])


def test_a_tokenizer_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(StageError, match="must have a vocabulary, got NoneType"):
        ByteTokens({"model": {}, "decoder": {"type": "ByteLevel"}})
