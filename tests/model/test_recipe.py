from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    Evaluation,
    Float32,
    Manifest,
    Metric,
    ModelRecipe,
    Provenance,
    StaticInt8,
    TensorSpec,
    load_recipe,
)
from cdk_inference.model.recipe import CALIBRATION_METHODS, DTYPES, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDENTIFIERS = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)
FUNCTIONS = st.builds("{}.py:{}".format, IDENTIFIERS, IDENTIFIERS)
SPECS = st.builds(
    TensorSpec,
    name=IDENTIFIERS,
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4096) | IDENTIFIERS, min_size=1, max_size=5).map(tuple),
)
PRECISIONS = st.just(Float32()) | st.builds(
    StaticInt8,
    calibration=FUNCTIONS,
    method=st.sampled_from(CALIBRATION_METHODS),
    percentile=st.floats(50, 100, exclude_min=True),
)
EVALUATIONS = st.builds(Evaluation, data=FUNCTIONS, metric=st.sampled_from(METRICS), max_drop=st.floats(0, 1))
PROVENANCE = Provenance(license="MIT", origin="https://example.com")


@given(
    specs=st.lists(SPECS, min_size=2, max_size=4, unique_by=lambda s: s.name),
    factory=FUNCTIONS,
    precision=PRECISIONS,
    evaluation=EVALUATIONS,
)
def test_recipe_survives_the_way_to_the_build_process(specs, factory, precision, evaluation) -> None:
    recipe = ModelRecipe(
        name="m",
        factory=factory,
        inputs=tuple(specs[:1]),
        outputs=tuple(specs[1:]),
        precision=precision,
        evaluation=evaluation,
        provenance=PROVENANCE,
        packages=("a", "b"),
    )
    assert ModelRecipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe


@given(shape=st.lists(st.integers(-3, 3) | st.text(max_size=3) | st.booleans() | st.none(), max_size=4))
def test_shape_is_right_or_fails_by_name(shape: list[Any]) -> None:
    valid = shape and all(
        (isinstance(s, str) and s.isascii() and s.isidentifier())
        or (isinstance(s, int) and not isinstance(s, bool) and s > 0)
        for s in shape
    )
    if valid:
        assert TensorSpec("x", "float32", tuple(shape)).shape == tuple(shape)
    else:
        with pytest.raises(ModelBuildError, match=r"recipe field 'x\.shape' is"):
            TensorSpec("x", "float32", tuple(shape))


@given(percentile=st.floats())
def test_percentile_outside_its_range_fails(percentile: float) -> None:
    assume(not 50 < percentile <= 100)
    with pytest.raises(ModelBuildError, match="recipe field 'percentile' is"):
        StaticInt8(calibration="d.py:f", percentile=percentile)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "a/b"}),
        ("name", {"name": ""}),
        ("factory", {"factory": "factory:build"}),
        ("factory", {"factory": "/abs/factory.py:build"}),
        ("factory", {"factory": "../factory.py:build"}),
        ("factory", {"factory": "sub/../../factory.py:build"}),
        ("inputs", {"inputs": ()}),
        ("outputs", {"outputs": [("scores", "float32", (1,))]}),
        ("inputs/outputs", {"outputs": (TensorSpec("x", "float32", ("batch",)),)}),
        ("evaluation", {"evaluation": None}),
        ("precision", {"precision": "int8"}),
        ("provenance", {"provenance": "MIT"}),
        ("packages", {"packages": "torch"}),
    ],
)
def test_wrong_field_fails_with_its_name(field: str, changes: dict[str, Any]) -> None:
    right = {
        "name": "m",
        "factory": "f.py:build",
        "inputs": (TensorSpec("x", "uint8", ("batch", 2)),),
        "outputs": (TensorSpec("y", "float32", ("batch", 2)),),
        "evaluation": Evaluation(data="d.py:f"),
        "provenance": PROVENANCE,
    }
    ModelRecipe(**right)
    with pytest.raises(ModelBuildError, match=f"recipe field '{field}' is "):
        ModelRecipe(**right | changes)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TensorSpec("1x", "uint8", ("batch",)), "name"),
        (lambda: TensorSpec("x", "complex64", ("batch",)), "x.dtype"),
        (lambda: StaticInt8(calibration="data.calibration"), "calibration"),
        (lambda: StaticInt8(calibration="../d.py:f"), "calibration"),
        (lambda: Evaluation(data="../d.py:f"), "data"),
        (lambda: StaticInt8(calibration="d.py:f", method="entropy"), "method"),
        (lambda: Evaluation(data="d.py:f", metric="accuracy"), "metric"),
        (lambda: Evaluation(data="d.py:f", max_drop=5), "max_drop"),
        (lambda: Provenance(license="", origin="x"), "license"),
        (lambda: Provenance(license="MIT", origin=""), "origin"),
    ],
)
def test_wrong_part_fails_with_the_field_name(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ModelBuildError, match=f"recipe field '{field}' is "):
        make()


def test_recipe_file_gives_the_recipe_and_its_folder(make_recipe: Callable[..., Path]) -> None:
    file = make_recipe()
    recipe, folder = load_recipe(file)
    assert (recipe.name, folder) == ("tiny", file.parent)
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nRECIPE = 1 / 0", r"recipe\.py raised ZeroDivisionError on line 2: division by zero$"),
        ("RECIPE = (", r"recipe\.py raised SyntaxError on line 1: "),
        (
            "import no_such_module",
            r"recipe\.py raised ModuleNotFoundError on line 1: No module named 'no_such_module'$",
        ),
        ("recipe = 1", r"recipe\.py defines no RECIPE; write RECIPE = ModelRecipe\(\.\.\.\)$"),
        ("RECIPE = 'efficientnet'", r"recipe\.py defines a RECIPE of type str; write "),
        (
            "from cdk_inference.model import Evaluation\nRECIPE = Evaluation(data='data.py')",
            r"recipe\.py: recipe field 'data' is 'data\.py', must be 'file\.py:function'",
        ),
    ],
)
def test_bad_recipe_file_fails_with_file_and_reason(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.py"
    file.write_text(text)
    with pytest.raises(ModelBuildError, match=message):
        load_recipe(file)


def test_missing_recipe_file_fails_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=rf"recipe file {tmp_path}/nothing\.py does not exist"):
        load_recipe(tmp_path / "nothing.py")


MANIFEST = Manifest(
    name="m",
    model_version="0123456789ab",
    inputs=(TensorSpec("x", "uint8", ("batch", 2)),),
    outputs=(TensorSpec("y", "float32", ("batch", 2)),),
    precision="static_int8",
    opset=18,
    size_bytes=1,
    baseline_size_bytes=4,
    metric=Metric("cosine", 1.0, 0.99, 0.95),
    parity={"exported": 1.0},
    provenance={"license": "MIT"},
)


def test_manifest_survives_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_manifest_of_another_schema_fails() -> None:
    with pytest.raises(ValueError, match="manifest has schema version 99, expected 1"):
        Manifest.from_json(MANIFEST.to_json().replace('"schema_version": 1', '"schema_version": 99'))
