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

from inference_runtime.errors import RejectItem, StageError
from inference_runtime.stages.builtin import json_object
from inference_runtime.stages.builtin.tabular import csv_preprocessor, json_preprocessor
from inference_runtime.stages.inputs import InputSpec, check_inputs, group_by_shape


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
        (b'{"a": 1, "b": NaN}', "field 'b' is nan, expected a number"),
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
        (b"a,c\n1,2\n", "field 'b' is missing, the header has 'a', 'c'"),
        (b"a;b\n1;2\n", "field 'a' is missing, the header has 'a;b'"),
        (b"a,b\n1,1e39\n", "field 'b' is '?1e.39'?, which does not fit float32"),
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


SIZE = {"name": "size", "kind": "category", "values": ["S", "M", "L"]}
TOWN = {"name": "town", "kind": "text"}
INPUTS = {"age": ("float32", []), "size": ("int64", [1]), "town": ("string", [1])}


def test_categories_become_their_places_and_missing_values_what_stands_for_them() -> None:
    columns = [{"name": "age", "missing": "nan"}, {**SIZE, "unknown": -1, "missing": -2}, "b"]
    for data in (b"age,size,b\n , L ,1\n", b"age,size,b\n,XL,1\n", b"age,size,b\n5,,1\n"):
        as_csv = csv_preprocessor(columns)(data, None)
        values = dict(zip(["age", "size", "b"], data.decode().splitlines()[1].split(","), strict=True))
        plain = {name: text.strip() for name, text in values.items() if text.strip()}
        record = {name: text if name == "size" else int(text) for name, text in plain.items()}
        as_json = json_preprocessor(columns)(json.dumps(record).encode(), None)
        np.testing.assert_array_equal(as_csv, as_json)
        expected = {"L": 2, "XL": -1}.get(plain.get("size", ""), -2)
        np.testing.assert_array_equal(as_csv, np.array([float(plain.get("age", "nan")), expected, 1], np.float32))
    for text in (b"null", b"NaN"):
        found = json_preprocessor(columns)(b'{"age": %s, "size": null, "b": 1}' % text, None)
        np.testing.assert_array_equal(found, np.array([np.nan, -2, 1], np.float32))
    for data in (b'{"age": 1, "size": "S", "b": NaN}', b'{"age": 1, "size": "S", "b": null}'):
        with pytest.raises(RejectItem, match=r"field 'b' is (nan|None), expected a number"):
            json_preprocessor(columns)(data, None)  # another column's NaN is none of this one


def test_a_whole_number_of_json_may_be_a_category() -> None:
    column = {"name": "zip", "kind": "category", "values": ["10115", "50667"]}
    assert json_preprocessor([column])(b'{"zip": 50667}', None).tolist() == [1]


def test_a_model_may_take_a_tensor_for_each_column() -> None:
    columns = ["age", SIZE, TOWN]
    found = json_preprocessor(columns, inputs=INPUTS)('{"age": 7, "size": "M", "town": "Köln"}'.encode(), None)
    same = csv_preprocessor(columns, inputs=INPUTS, header=False)("7,M,Köln".encode(), None)
    for arrays in (found, same):
        assert {name: (array.dtype.name, array.shape, array.tolist()) for name, array in arrays.items()} == {
            "age": ("float32", (), 7),
            "size": ("int64", (1,), [1]),
            "town": ("object", (1,), ["Köln"]),
        }
        checked = check_inputs(arrays, [InputSpec(name, *spec) for name, spec in INPUTS.items()])
        ((_, tensors),) = group_by_shape([(0, checked), (1, checked)])
        assert tensors["town"].values() == ("Köln", "Köln")


def test_a_string_keeps_the_spaces_around_it() -> None:
    inputs = {"town": ("string", [])}
    for read, data in ((json_preprocessor, b'{"town": "\\t a  b "}'), (csv_preprocessor, b"town\n\t a  b \n")):
        assert read([TOWN], inputs=inputs)(data, None)["town"].tolist() == "\t a  b "
    assert csv_preprocessor([{**TOWN, "missing": "?"}], inputs=inputs)(b"town\n \t\n", None)["town"].tolist() == "?"


@given(
    st.fixed_dictionaries(
        {"age": st.none() | st.floats(-1e6, 1e6, width=32), "size": st.none() | st.sampled_from("SMLX")}
    ),
    st.none() | st.integers(-9, 9),
    st.none() | st.just("nan") | st.integers(-9, 9),
)
@example({"age": 0.0, "size": None}, 0, None)  # what is missing is not unknown
def test_a_record_of_any_form_gives_the_same_numbers(record: dict[str, Any], unknown: int | None, missing: Any) -> None:
    """Or is rejected in all forms: as CSV, and as JSON with nulls or without the fields."""
    columns = [{"name": "age", "missing": missing}, {**SIZE, "unknown": unknown, "missing": missing}]
    there = {name: value for name, value in record.items() if value is not None}
    row = ",".join("" if value is None else str(value) for value in record.values())
    reads = [(json_preprocessor(columns), json.dumps(each).encode()) for each in (record, there)]
    reads.append((csv_preprocessor(columns), f"{','.join(record)}\n{row}\n".encode()))
    rejected = (missing is None and len(there) < 2) or (unknown is None and record["size"] == "X")
    for read, data in reads:
        if rejected:
            with pytest.raises(RejectItem, match=r"field '(age|size)' is"):
                read(data, None)
            continue
        absent = float(missing or 0)
        place = absent if record["size"] is None else {"S": 0, "M": 1, "L": 2}.get(record["size"], unknown)
        age = absent if record["age"] is None else record["age"]
        np.testing.assert_array_equal(read(data, None), np.array([age, place], np.float32))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"size": "XL"}', "field 'size' is 'XL', which is none of its 3 values"),
        (b'{"size": true}', "field 'size' is True, expected a string"),
        (b'{"size": null}', "field 'size' is None, expected a string"),
        (b"{}", "field 'size' is missing"),
        (b'{"size": "S", "size": "S"}', "field 'size' occurs more than once"),
        (b'{"size": "S", "town": "\\ud800"}', "field 'town' is not valid Unicode"),
    ],
)
def test_a_value_that_is_no_category_is_rejected_and_named(data: bytes, says: str) -> None:
    with pytest.raises(RejectItem, match=says):
        json_preprocessor([SIZE, {**TOWN, "missing": ""}], inputs=INPUTS)(data, None)


def test_infinity_is_rejected_where_nan_is_not() -> None:
    spec = [InputSpec("x", "float32", (2,), nan=True)]
    check_inputs(np.array([np.nan, 1], np.float32), spec)
    with pytest.raises(RejectItem, match="input 'x' has 1 values that are infinite"):
        check_inputs(np.array([np.nan, np.inf], np.float32), spec)
    with pytest.raises(StageError, match=r"input 'x' is object \[2\], expected float32 \[2\]"):
        check_inputs(np.array(["a", None], object), spec)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_vector_or_a_reason(data: bytes) -> None:
    some = [{"name": "a", "kind": "category", "values": ["1", "x"], "unknown": -1, "missing": "nan"}]
    functions = [json_preprocessor(some), csv_preprocessor(some)]
    for function in (
        *functions,
        json_preprocessor(["a"]),
        csv_preprocessor(["a"]),
        csv_preprocessor(["a"], header=False),
    ):
        with contextlib.suppress(RejectItem):
            assert function(data, None).shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([[]], "distinct names"),
        (["ab"], "distinct names"),
        ([["a", "a"]], "distinct names"),
        ([["a"], "bool"], "bool"),
        ([[{"name": "a", "kind": "date"}]], "kind of column 'a' is 'date', expected number, category or text"),
        ([["a"], "float32", {"a": ("bool", [])}], "bool"),
    ],
)
def test_wrong_options_fail_and_are_named(arguments: list[Any], says: str) -> None:
    for factory in (json_preprocessor, csv_preprocessor):
        with pytest.raises(ValueError, match=says):
            factory(*arguments)


def test_a_delimiter_of_two_characters_fails() -> None:
    with pytest.raises(ValueError, match="';;'"):
        csv_preprocessor(["a"], delimiter=";;")
