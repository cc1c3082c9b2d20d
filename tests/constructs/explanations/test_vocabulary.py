"""The facts about a tokenizer, next to the library that makes and runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cdk_inference.errors import PropError
from cdk_inference.explanations.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["a night with größe and 猫 cats", "the price of déjà vu, 20 €", "what a night"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "<pad>", "<mask>"], initial_alphabet=alphabet)
    )
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, Vocabulary.read(path)


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=40))
def test_texts_of_byte_level_tokens_are_the_text(byte_level: tuple[Tokenizer, Vocabulary], text: str) -> None:
    tokenizer, vocabulary = byte_level
    assert "".join(vocabulary.texts[token] for token in tokenizer.encode(text).ids) == text


def test_a_mask_stands_in_for_tokens_and_special_ones_stay(byte_level: tuple[Tokenizer, Vocabulary]) -> None:
    tokenizer, vocabulary = byte_level
    assert vocabulary.special == tuple(sorted(tokenizer.token_to_id(each) for each in ("<s>", "<pad>", "<mask>")))
    assert (vocabulary.replacement_text, vocabulary.attended) == ("<mask>", True)


def written(path: Path, model: dict[str, object], *special: str, **more: object) -> Path:
    added = [{"content": token, "id": number, "special": True} for number, token in enumerate(special, 100)]
    path.write_text(json.dumps({"model": model, "added_tokens": added, **more}))
    return path


def test_without_a_mask_padding_stands_in_and_is_not_attended_to(tmp_path: Path) -> None:
    path = written(tmp_path / "t.json", {"type": "Unigram", "vocab": [["<unk>", 0.0], ["\u2581cat", -1.0]]}, "<pad>")
    found = Vocabulary.read(path)
    assert (found.replacement_text, found.attended, found.special) == ("<pad>", False, (100,))
    assert found.texts[1] == " cat"
    assert len(found.texts) == 101


def test_without_padding_the_unknown_token_stands_in(tmp_path: Path) -> None:
    model = {"type": "WordPiece", "vocab": {"[UNK]": 0, "cat": 1, "##s": 2}, "unk_token": "[UNK]"}
    found = Vocabulary.read(written(tmp_path / "t.json", model))
    assert (found.replacement_text, found.attended) == ("[UNK]", True)
    assert found.texts == ("[UNK]", "cat", "##s")


def test_a_tokenizer_with_nothing_that_stands_in_fails(tmp_path: Path) -> None:
    path = written(tmp_path / "t.json", {"type": "WordLevel", "vocab": {"cat": 0}})
    with pytest.raises(PropError, match=r"tokenizer must have a token for masks, padding or what is unknown, got none"):
        Vocabulary.read(path)
