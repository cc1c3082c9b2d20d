"""Turns a text into the token ids that a language model takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tokenizers import Tokenizer

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.answer_settings import SETTINGS, answer_setting, answer_stops
from inference_runtime.stages.builtin.json_object import JsonObject
from inference_runtime.stages.builtin.prompt import Prompt
from inference_runtime.stages.builtin.stops import STOP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenizers import Encoding

    from inference_runtime.stages.item import Item

# Names of the inputs of models, and where the tokenizer has them.
_ATTRIBUTES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

_CHARACTERS_PER_TOKEN = 100  # an English one has four to five


def text_preprocessor(
    tokenizer_file: str,
    inputs: Mapping[str, str],
    max_length: int = 256,
    pad_to_multiple_of: int = 16,
    field: str | None = None,
    too_long: Literal["truncate", "reject"] = "truncate",
    prompt: str | None = None,
    keep_stop: bool = False,
) -> Callable[[bytes, Item], dict[str, Any]]:
    """Return a preprocessing function for text in UTF-8.

    Texts are padded to the next multiple of a few tokens, so that those of similar length share a batch. Nothing of the
    padding reaches a model that respects its attention mask.

    Parameters
    ----------
    tokenizer_file
        A `tokenizer.json` of Hugging Face among the stage's sources. Its settings for padding and truncation are
        replaced by the options here, but for the side, and the token that pads.
    inputs
        dtype of each input that the model takes; of `input_ids`, `attention_mask`, `token_type_ids`, and `SETTINGS`.
    max_length
        Most tokens, special ones included.
    pad_to_multiple_of
        The number of tokens is a multiple of this, which divides `max_length`.
    field
        Member of a JSON object that holds the text. Without it the whole object is the text.
    too_long
        The treatment of longer texts: `truncate` keeps the first `max_length` tokens (of at most 100 x `max_length`
        characters); `reject` rejects the text.
    prompt
        The text that the model reads, with `{text}` for that of the object. It counts towards `max_length`, and is
        never cut.
    keep_stop
        Whether the strings that end the answer are to be kept: the member `stop` of the JSON object.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning an array of shape (tokens,) for each input, or a number for a setting; with
        `keep_stop` also the list `stop`.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    if not inputs or not inputs.keys() <= {*_ATTRIBUTES, *SETTINGS}:
        raise ValueError(f"inputs are {sorted(inputs)}, expected some of {', '.join((*_ATTRIBUTES, *SETTINGS))}")
    if pad_to_multiple_of < 1 or max_length < 1 or max_length % pad_to_multiple_of:
        raise ValueError(f"max_length is {max_length}, expected a multiple of pad_to_multiple_of, {pad_to_multiple_of}")
    if too_long not in ("truncate", "reject"):
        raise ValueError(f'too_long is "{too_long}", expected "truncate" or "reject"')
    tokenizer = Tokenizer.from_file(str(Path(os.environ.get("LAMBDA_TASK_ROOT", ""), tokenizer_file)))
    if (special := tokenizer.num_special_tokens_to_add(is_pair=False)) >= max_length:
        raise ValueError(f"max_length is {max_length}, but the tokenizer adds {special} tokens to every text")
    side = (tokenizer.truncation or {}).get("direction", "right")
    padding = {k: v for k, v in (tokenizer.padding or {}).items() if k not in ("length", "pad_to_multiple_of")}
    tokenizer.enable_padding(pad_to_multiple_of=pad_to_multiple_of, **padding)
    tokenizer.no_truncation()
    wrapped = None if prompt is None else Prompt(tokenizer, prompt, max_length, side)
    if wrapped is None:
        tokenizer.enable_truncation(max_length, direction=side)
    max_characters = _CHARACTERS_PER_TOKEN * max_length

    def preprocess(data: bytes, item: Item) -> dict[str, Any]:
        record = None if field is None else JsonObject(data)
        text = (_decode(data) if record is None or field is None else _member(record, field)).strip()
        if not text:
            raise RejectItem("text is empty")
        if len(text) > max_characters:
            if too_long == "reject":
                raise RejectItem(f"text has {len(text):,} characters, far more than {max_length:,} tokens")
            # The tokenizer would take all of it apart before it throws most away.
            text = text[:max_characters] if side == "right" else text[-max_characters:]
        encoding, whole = _encoded(tokenizer, text) if wrapped is None else wrapped.encode(text)
        if too_long == "reject" and not whole:
            raise RejectItem(f"text has more than {max_length:,} tokens")
        made: dict[str, Any] = {
            name: np.array(
                answer_setting(name, record, item) if name in SETTINGS else getattr(encoding, _ATTRIBUTES[name]), dtype
            )
            for name, dtype in inputs.items()
        }
        return {**made, STOP: answer_stops(record)} if keep_stop and record is not None else made

    return preprocess


def _encoded(tokenizer: Tokenizer, text: str) -> tuple[Encoding, bool]:
    """Return the tokens of a text, and whether they are all of its tokens."""
    encoding = tokenizer.encode(text)
    if all(encoding.special_tokens_mask):
        raise RejectItem("text is empty: it has nothing but characters that the tokenizer drops")
    return encoding, not encoding.overflowing


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectItem(f"not text in UTF-8: {error}") from error


def _member(record: JsonObject, field: str) -> str:
    text = record[field]
    if not isinstance(text, str):
        raise RejectItem(f"field {field!r} is {text!r:.100}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectItem(f"field {field!r} is not valid Unicode: {error}") from error
    return text
