"""Small tokenizers of the kinds that language models have, as their `tokenizer.json` describes them."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

KINDS = ("byte_level", "llama", "gemma", "t5", "never", "unigram_bytes")

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_CORPUS = ["a good film, a bad film, größer als 猫 and 👩‍🚀", "the film was good and the cat was bad"]
SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PIECES = [_SPACE, f"{_SPACE}the", f"{_SPACE}film", "s", "oo", f"{_SPACE}a", *"abcdefghijklmnopqrtuvwxyz,.0123é猫"]


def description(kind: str) -> dict[str, Any]:
    """Return the content of the `tokenizer.json` of one of `KINDS`."""
    if kind == "byte_level":
        return _byte_level()
    return _with_bytes(prefix=kind == "llama") if kind in ("llama", "gemma") else _unigram(kind)


def _byte_level() -> dict[str, Any]:
    """As that of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|pad|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    # Added tokens need not be written in characters that stand for bytes.
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("a b"), AddedToken("猫 猫")])
    return _data(tokenizer)


def _with_bytes(*, prefix: bool) -> dict[str, Any]:
    """As that of Llama 2, TinyLlama and Mistral, which put a space before a text; or of Gemma, which does not."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0], fuse_unk=True))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if not prefix:
        tokenizer.add_tokens([AddedToken(_SPACE * 2, normalized=False), AddedToken("\n\n", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    made = _data(tokenizer)
    first = len(SPECIAL)
    vocabulary = sorted(made["model"]["vocab"], key=made["model"]["vocab"].__getitem__)
    vocabulary[first:first] = _BYTES
    made["model"] |= {"byte_fallback": True, "vocab": {token: number for number, token in enumerate(vocabulary)}}
    for token in made["added_tokens"][first:]:
        token["id"] += len(_BYTES)
    return made


def _unigram(kind: str) -> dict[str, Any]:
    """As that of T5; or without a space before a text; or with a token for each byte."""
    has_bytes = kind == "unigram_bytes"
    pieces = [*SPECIAL, *(_BYTES if has_bytes else []), *_PIECES]
    scores = [(piece, -1.0 - place / len(pieces)) for place, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, 0, byte_fallback=has_bytes))
    scheme = "never" if kind == "never" else "always"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if has_bytes:
        steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(token) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return _data(tokenizer)


def _data(tokenizer: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found
