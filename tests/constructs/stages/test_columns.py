"""Columns of records: what they tell the runtime, and which do not fit a model."""

from __future__ import annotations

import dataclasses
import json
import math
import types

import pytest

from cdk_inference import Column, Preprocess, PropError
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import TensorSpec
from cdk_inference.model.recipe.tensors import DTYPES
from cdk_inference.stages.preprocess import reading_environment

VECTOR = TensorSpec("x", "float32", ("batch", 2))
SIZE = Column.category("size", ["S", "M"])


def spec(name: str, dtype: str = "float32", *, nan: bool = False) -> TensorSpec:
    return TensorSpec(name, dtype, ("batch", 1), nan)


def test_columns_tell_the_runtime_what_becomes_of_their_values():
    columns = [
        "plain",
        Column.number("age", missing=math.nan),
        Column.category("size", ["S", "M"], unknown=-1, missing=7),
        Column.text("town"),
    ]
    told = [
        "plain",
        {"name": "age", "kind": "number", "missing": "nan"},
        {"name": "size", "kind": "category", "values": ["S", "M"], "unknown": -1, "missing": 7},
        {"name": "town", "kind": "text"},
    ]
    inputs = [spec("plain", "int64"), spec("age", nan=True), spec("size"), spec("town", "string")]
    expected = {spec.name: [spec.dtype, [1]] for spec in inputs}
    as_json = Preprocess.json(fields=columns).bind(inputs).options
    assert (as_json["fields"], as_json["inputs"]) == (told, expected)
    as_csv = Preprocess.csv(columns=columns).bind(inputs[::-1]).options
    assert (as_csv["columns"], as_csv["inputs"]) == (told, expected)
    json.dumps([as_json, as_csv], allow_nan=False)


def test_columns_of_a_vector_have_no_tensors(tmp_path):
    (tmp_path / "sizes.txt").write_text("S\nM\n")
    column = Column.category("size", tmp_path / "sizes.txt")
    assert column == SIZE
    assert "inputs" not in Preprocess.json(fields=["a", column]).bind([VECTOR]).options


def test_the_runtime_knows_which_inputs_take_nan(model):
    assert '"nan"' not in reading_environment(Preprocess.image(size=224), model, None)["MODEL_INPUTS"]
    manifest = dataclasses.replace(model.manifest, inputs=(spec("age", nan=True),))
    trees = types.SimpleNamespace(manifest=manifest)
    stage = Preprocess.json(fields=[Column.number("age", missing=math.nan)])
    stage.bind(manifest.inputs)
    (told,) = json.loads(reading_environment(stage, trees, None)["MODEL_INPUTS"])
    assert told == {"name": "age", "dtype": "float32", "shape": ["batch", 1], "nan": True}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Column.number(""), "name must be that of a column, got ''"),
        (lambda: Column.number("a", missing=math.inf), "missing of column 'a' must be a finite number or NaN, got inf"),
        (lambda: Column.category("a", []), "values of column 'a' must be distinct strings .*, got 0 with 0"),
        (lambda: Column.category("a", ["x", "x"]), "got 2 with 1 distinct ones; correct"),
        (lambda: Column.category("a", ["x", " y"]), "without white space around them, got ' y'"),
        (lambda: Column.category("a", ["x"], unknown=2**25), "unknown of column 'a' must be at most 16,777,216"),
        (lambda: Preprocess.json(fields=["a", Column.text("a")]), "fields must be the unique names"),
    ],
)
def test_wrong_columns_fail(make, message):
    with pytest.raises(PropError, match=message):
        make()


@pytest.mark.parametrize(
    ("columns", "inputs", "message"),
    [
        (["a", SIZE], [spec("a"), spec("b")], "have a column for each input of the model, a, b, got a, size; name"),
        (["a", SIZE], [spec("a"), spec("size", "string")], "must take a number as .* 'size', got string .batch, 1."),
        ([Column.text("a")], [spec("a")], r"'a' of the model must take a string as \(batch,\) or .* got float32"),
        (["a", "b"], [spec("a"), VECTOR], "for each input of the model, a, x, got a, b"),
        (["a", "x"], [spec("a"), VECTOR], r"must take a number as .* got float32 \(batch, 2\)"),
        (["a", SIZE], [spec("x")], "preprocess must make what the model takes, x: .*, got float32 .batch, 2."),
        (
            ["a", Column.number("b", missing=math.nan)],
            [VECTOR],
            r"missing of column 'b' must be a number, since input 'x' .* got nan; declare TensorSpec\(…, nan=True\)",
        ),
        (["a", Column.category("b", ["x"], missing=math.nan)], [spec("a"), spec("b")], "since input 'b'"),
    ],
)
def test_columns_that_do_not_fit_the_model_fail(columns, inputs, message):
    with pytest.raises(PropError, match=message):
        Preprocess.json(fields=columns).bind(inputs)


@pytest.mark.parametrize(
    ("column", "dtype", "message"),
    [
        (Column.category("b", ["x"], unknown=-1), "uint8", "unknown of column 'b' must fit uint8, .* 'b' .*, got -1;"),
        (Column.category("b", ["x"], missing=0.5), "int64", "missing of column 'b' must fit int64, .* got 0.5"),
        (Column.number("b", missing=1e39), "float32", "missing of column 'b' must fit float32, .* got 1e.39"),
        (Column.number("b", missing=1e39), "int32", "missing of column 'b' must fit int32"),
        (Column.category("b", [str(n) for n in range(129)]), "int8", "values of column 'b' must fit int8, .* got 129;"),
        (Column.category("b", [str(n) for n in range(2050)]), "float16", "must fit float16, .* got 2,050"),
    ],
)
def test_numbers_that_do_not_fit_the_type_of_an_input_fail(column, dtype, message):
    for fields, inputs in (
        (["a", column], [spec("a"), spec("b", dtype)]),
        ([column], [spec("b", dtype)]),
    ):
        with pytest.raises(PropError, match=message):
            Preprocess.json(fields=fields, dtype=dtype).bind(inputs)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bool"])
def test_numbers_that_fit_every_type_pass(dtype):
    columns = [
        Column.category("a", [str(n) for n in range(128)], unknown=127, missing=1.0),
        Column.number("b", missing=0),
    ]
    Preprocess.csv(columns=columns).bind([spec("a", dtype), spec("b", dtype)])


@pytest.mark.parametrize(("dtype", "nan"), [("int64", True), ("string", True), ("float32", 1)])
def test_only_floats_may_be_nan(dtype, nan):
    with pytest.raises(ModelBuildError, match=r"'x\.nan' must be False for .*, True or False for floats, got"):
        TensorSpec("x", dtype, ("batch",), nan)
