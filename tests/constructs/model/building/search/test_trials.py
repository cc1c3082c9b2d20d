"""Trials judge a precision by the model as it is deployed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import numpy_helper
from tests.constructs.model.graphs import cnn, prepared

from cdk_inference.common.store import Store
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    Auto,
    Evaluation,
    Float32,
    ModelRecipe,
    OnnxFile,
    Provenance,
    StaticInt8,
    TensorSpec,
    WeightOnly,
)
from cdk_inference.model.building.graph.graph import serialize
from cdk_inference.model.building.passes import Passes
from cdk_inference.model.building.search.trials import Trials
from cdk_inference.model.files import weights

if TYPE_CHECKING:
    from cdk_inference.model.recipe.precision import Pinned

RECIPE = ModelRecipe(
    name="m",
    source=OnnxFile("m.onnx"),
    inputs=(TensorSpec("images", "uint8", ("batch", 32, 32, 3)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 10)),),
    precision=Auto(),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.02, max_size_mb=0.05),
    provenance=Provenance(license="CC0-1.0", origin="random numbers"),
)
DATA = f"""
import sys
sys.path.append({str(Path(__file__).parents[5])!r})
from tests.constructs.model.graphs import images

def calibration():
    yield {{"images": images(16, 1)}}

def evaluation():
    yield {{"images": images(16, 2)}}
"""


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    (tmp_path / "data.py").write_text(DATA)
    float32 = tmp_path / "float32.onnx"
    float32.write_bytes(serialize(prepared(cnn(), tmp_path)))
    return Trials(RECIPE, tmp_path, float32, Passes(Store(tmp_path / "passes"), "test", io.StringIO()))


@pytest.mark.parametrize("precision", [StaticInt8(), WeightOnly()])
def test_a_candidate_has_the_size_and_the_quality_of_what_ships(trials: Trials, precision: Pinned) -> None:
    reference, trial = trials.run(Float32()), trials.run(precision)
    assert trial.shipped is not None
    assert trial.size == sum(file.stat().st_size for file in trial.shipped.iterdir() if file.name.startswith("model."))
    assert trial.size < reference.size / 2
    assert trial.failure == ""
    assert reference.failure.endswith("MB is above max_size_mb 0.05")
    trials.check(trial.shipped)


def test_a_package_that_is_not_what_was_judged_fails(trials: Trials, tmp_path: Path) -> None:
    shipped = trials.run(StaticInt8()).shipped
    assert shipped is not None
    model = onnx.load_from_string(weights.join(shipped / weights.MODEL))
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) > 1:
            weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    (tmp_path / "packaged").mkdir()
    weights.write(tmp_path / "packaged", serialize(model))
    with pytest.raises(ModelBuildError, match=r"the packaged model must pass the gate 0\.98, .*, got cosine "):
        trials.check(tmp_path / "packaged")
