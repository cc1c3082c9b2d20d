"""Records as JSON or CSV become vectors, or a reason that names the field."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin import json_object
from inference_runtime.stages.builtin.tabular import csv_preprocessor, json_preprocessor


def test_json_takes_the_fields_in_order() -> None:
    vector = json_preprocessor(["b", "a", "yes"])(b'{"a": 1.5, "b": -2, "yes": true, "more": "x"}', None)
    assert vector.dtype == np.float32
    assert vector.tolist() == [-2, 1.5, 1]


def test_csv_takes_the_columns_in_order() -> None:
    vector = csv_preprocessor(["b", "a"], "float64")("\ufeffa, b ,c\r\n1.5,-2e3,text\r\n\r\n".encode(), None)
    assert vector.dtype == np.float64
    assert vector.tolist() == [-2000, 1.5]


def test_csv_without_header() -> None:
    assert csv_preprocessor(["a", "b"], header=False, delimiter=";")(b"1;2\n", None).tolist() == [1, 2]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_both_give_the_same_numbers(values: list[float]) -> None:
    names = [f"f{i}" for i in range(len(values))]
    as_json = json_preprocessor(names)(json.dumps(dict(zip(names, values, strict=True))).encode(), None)
    as_csv = csv_preprocessor(names)(f"{','.join(names)}\n{','.join(map(repr, values))}\n".encode(), None)
    np.testing.assert_array_equal(as_json, np.array(values, np.float32))
    np.testing.assert_array_equal(as_csv, as_json)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "JSON is list, expected an object"),
        (b'{"a": 1}', "field 'b' is missing"),
        (b'{"a": 1, "b": null}', "field 'b' is None, expected a number"),
        (b'{"a": 1, "b": "2"}', "field 'b' is '2', expected a number"),
        (b'{"a": 1, "b": [2]}', "field 'b' is .2., expected a number"),
        (b'{"a": 1, "b": 2.5}', "field 'b' is 2.5, which is no int8"),
        (b'{"a": 1, "b": 300}', "field 'b' is 300, which does not fit int8"),
        (b'{"a": 1, "b": NaN}', "field 'b' is nan, which does not fit int8"),
        (b'{"a": 1, "b": 1e999}', "field 'b' is inf, which does not fit int8"),
        (b'{"a": 1, "b": 2, "b": 2}', "field 'b' occurs more than once"),
        (b'{"a": 1, "b": 1_000}', "not JSON"),
        pytest.param(b'{"a": 1, "b": ' + b"9" * 5000 + b"}", "not JSON", id="digits"),
    ],
)
def test_bad_json_is_rejected_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        json_preprocessor(["a", "b"], "int8")(data, None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "CSV has 0 records, expected 1"),
        (b"a,b\n", "CSV has 0 records, expected 1"),
        (b"a,b\n1,2\n3,4\n", "CSV has more than 1 record, expected 1"),
        (b'a,b\n1,2\n"', "CSV has more than 1 record|not CSV in UTF-8: unexpected end of data"),
        (b'a,b\n1,"2', "not CSV in UTF-8: unexpected end of data"),
        (b'a,b\n1,"2"3\n', "not CSV in UTF-8: ',' expected after '\"'"),
        (b"a,b,b\n1,2,3\n", "field 'b' occurs more than once"),
        (b"a,b\n1,1_000\n", "field 'b' is '1_000', expected a number"),
        ("a,b\n1,\uff12\n".encode(), "field 'b' is '\uff12', expected a number"),
        (b"a,b\n1,inf\n", "field 'b' is 'inf', expected a number"),
        pytest.param(b"a,b\n1," + b"9" * 5000, "field 'b' is '9999.*, expected a number", id="digits"),
        (b"a,b\n1\n", "CSV record has 1 columns, expected 2"),
        (b"a,c\n1,2\n", "field 'b' is missing"),
        (b"a,b\n1,x\n", "field 'b' is 'x', expected a number"),
        (b"a,b\n1,\n", "field 'b' is '', expected a number"),
        (b"\xff\xfe", "not CSV in UTF-8"),
        (b'a,b\n"' + b"1" * 200_000, "not CSV in UTF-8"),
    ],
)
def test_bad_csv_is_rejected_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        csv_preprocessor(["a", "b"])(data, None)


def test_what_is_ignored_may_occur_more_than_once() -> None:
    data = b'{"a": 1, "x": {"a": 2, "a": 3}, "x": [{"a": 4, "a": 5}]}'
    assert json_preprocessor(["a"])(data, None).tolist() == [1]
    assert csv_preprocessor(["a"])(b"x,a,x\n7,1,8\n", None).tolist() == [1]


def test_json_may_be_in_any_encoding_of_unicode() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"):
        assert json_preprocessor(["\xe4"])('{"\xe4": 1}'.encode(encoding), None).tolist() == [1]


def test_separators_in_strings_are_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_object, "_MAX_VALUES", 10)
    text = json.dumps({"a": 1, 'x"\\': ',:[{"\\' * 50, "y": "\n"})
    assert json_preprocessor(["a"])(text.encode(), None).tolist() == [1]
    with pytest.raises(RejectItem, match="JSON has more than 10 values, expected one record"):
        json_preprocessor(["a"])(b'{"a": 1, "x": [' + b"1," * 10 + b"1]}", None)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 5)), max_size=5), st.booleans())
def test_a_field_is_read_if_it_occurs_once_and_refused_otherwise(pairs: list[tuple[str, int]], deeper: bool) -> None:
    """As JSON, at any place next to objects with fields of the same name, and as CSV."""
    members = [f'"{name}": {value}' for name, value in pairs]
    if deeper:
        members.insert(len(members) // 2, '"d": [{"a": 7, "a": 8}]')
    as_json = ("{" + ", ".join(members) + "}").encode()
    as_csv = "\n".join([",".join(name for name, _ in pairs), ",".join(str(value) for _, value in pairs)]).encode()
    values = [value for name, value in pairs if name == "a"]
    for read, data in ((json_preprocessor(["a"]), as_json), (csv_preprocessor(["a"]), as_csv)):
        if len(values) == 1:
            assert read(data, None).tolist() == values
        else:
            with pytest.raises(RejectItem):
                read(data, None)


@given(st.text(alphabet="0123456789.eE+-_ \t\uff11\u0663\xa0infa", max_size=8))
@example("1_0")
@example("1.")
@example(".5e-1")
def test_csv_takes_the_numbers_that_are_spelled_in_ascii(text: str) -> None:
    plain = text.strip(" \t")
    spelled = set(plain) <= set("0123456789.eE+-")
    try:
        expected = Decimal(plain) if spelled else None
    except InvalidOperation:
        expected = None
    read = csv_preprocessor(["a", "b"], "float64", header=False)
    if expected is None:
        with pytest.raises(RejectItem):
            read(f"{text},1".encode(), None)
    else:
        assert read(f"{text},1".encode(), None).tolist() == [float(expected), 1]


@given(st.binary(max_size=60))
def test_any_bytes_give_a_vector_or_a_reason(data: bytes) -> None:
    for function in (json_preprocessor(["a"]), csv_preprocessor(["a"]), csv_preprocessor(["a"], header=False)):
        with contextlib.suppress(RejectItem):
            assert function(data, None).shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([[]], "distinct names"), (["ab"], "distinct names"), ([["a", "a"]], "distinct names"), ([["a"], "bool"], "bool")],
)
def test_wrong_options_fail_and_are_named(arguments: list[Any], says: str) -> None:
    for factory in (json_preprocessor, csv_preprocessor):
        with pytest.raises(ValueError, match=says):
            factory(*arguments)


def test_a_delimiter_of_two_characters_fails() -> None:
    with pytest.raises(ValueError, match="';;'"):
        csv_preprocessor(["a"], delimiter=";;")
