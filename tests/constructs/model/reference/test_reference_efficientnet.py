"""EfficientNet-Lite0 and Lite2 on photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from cdk_inference import LambdaPlatform
from cdk_inference.model import Float16, build_model, load_recipe
from cdk_inference.model.building.evaluation.data import load_function
from inference_runtime.stages.builtin.image import image_preprocessor

if TYPE_CHECKING:
    from cdk_inference.model import BuiltModel

HOST = LambdaPlatform.host().architecture
ASSETS = Path(__file__).parents[4] / "model_assets"
FOLDER = ASSETS / "efficientnet_lite"
LABELS = (FOLDER / "labels.txt").read_text("utf-8").splitlines()
ACCEPTED = json.loads((ASSETS / "photographs" / "accepted.json").read_text("utf-8"))
SOURCES = (ASSETS / "SOURCES.md").read_text("utf-8")


@pytest.fixture(scope="module")
def lite0() -> BuiltModel:
    """From the user's cache, as a synth would take it."""
    return build_model(FOLDER / "lite0.py", architecture=HOST)


@pytest.fixture(scope="module")
def lite2() -> BuiltModel:
    return build_model(FOLDER / "lite2.py", architecture=HOST)


def test_labels_are_a_thousand_different_names() -> None:
    assert len(LABELS) == len(set(LABELS)) == 1000
    assert (LABELS[0], LABELS[281], LABELS[999]) == ("tench", "tabby", "toilet tissue")


def test_samples_all_have_labels_that_exist_and_a_source() -> None:
    photographs = {p.name for p in (ASSETS / "photographs").iterdir()} - {"accepted.json"}
    assert set(ACCEPTED) == photographs
    assert all(set(labels) <= set(LABELS) for labels in ACCEPTED.values())
    for path in (*ASSETS.glob("photographs/*.*g"), *FOLDER.glob("*/*.jpg")):
        assert f"`{path.stem}`" in SOURCES


def test_evaluation_photographs_are_not_those_of_the_calibration() -> None:
    calibration, evaluation = ({p.stem for p in FOLDER.glob(f"{f}/*.jpg")} for f in ("calibration", "evaluation"))
    assert len(calibration) >= 15
    assert len(evaluation) >= 10
    assert not calibration & evaluation


@pytest.mark.parametrize(("name", "size"), [("lite0", 224), ("lite2", 260)])
def test_data_is_as_the_recipe_declares_and_named_after_the_photographs(name: str, size: int) -> None:
    recipe, folder = load_recipe(FOLDER / f"{name}.py")
    assert recipe.inputs[0].shape == ("batch", size, size, 3)
    for reference, kind in ((recipe.calibration, "calibration"), (recipe.evaluation.data, "evaluation")):
        inputs, labels, names = next(load_function(folder, str(reference), kind)())
        assert inputs["images"].shape == (len(names), size, size, 3)
        assert inputs["images"].dtype == np.uint8
        assert labels is None
        assert names == sorted(p.stem for p in (FOLDER / kind).iterdir())


def test_data_is_cropped_as_the_deployed_preprocessing_crops() -> None:
    crop = load_function(FOLDER, "data.py:crop", "data")
    for path in sorted((FOLDER / "evaluation").glob("*.jpg"))[:4]:
        with Image.open(path) as image:
            ours = crop(image, 260, 0.875, 0.5, 0.5, mirror=False)
        np.testing.assert_array_equal(ours, preprocess(path, 260))


def preprocess(path: Path, size: int) -> np.ndarray[Any, Any]:
    item: Any = None  # the built-in looks at the bytes alone
    return image_preprocessor(size=size)(path.read_bytes(), item)


def answers(model: BuiltModel, size: int) -> dict[str, str]:
    session = ort.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.stack([preprocess(ASSETS / "photographs" / name, size) for name in ACCEPTED])
    best = np.argmax(session.run(["logits"], {"images": images})[0], axis=1)
    return {name: LABELS[index] for name, index in zip(ACCEPTED, best, strict=True)}


@pytest.mark.slow
def test_lite0_is_small_and_agrees_with_float_where_that_is_sure(lite0: BuiltModel) -> None:
    manifest = lite0.manifest
    assert manifest.size_bytes * 3.6 <= manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.95
    assert manifest.parity["exported"] == 1.0
    assert manifest.parity["quantized"] >= 0.98


@pytest.mark.slow
def test_lite2_is_small_and_agrees_with_float_where_that_is_sure(lite2: BuiltModel) -> None:
    manifest = lite2.manifest
    assert manifest.size_bytes * 3.5 <= manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.95
    assert manifest.parity["exported"] == 1.0
    assert manifest.parity["quantized"] >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_half_precision_for_a_gpu_passes_the_same_gate_with_the_same_tensors(name: str) -> None:
    built = build_model(FOLDER / f"{name}.py", precision=Float16())
    manifest = built.manifest
    assert manifest.precision == "float16"
    assert manifest.size_bytes * 1.9 <= manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.95
    assert manifest.parity["quantized"] >= 0.999
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(t.name, t.type) for t in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [(t.name, t.type) for t in session.get_outputs()] == [("logits", "tensor(float)")]
    weights = [w for w in onnx.load(built.path / "model.onnx").graph.initializer if len(w.dims) > 1]
    assert {w.data_type for w in weights} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_lite0_sees_what_a_person_sees(lite0: BuiltModel) -> None:
    wrong = {name: label for name, label in answers(lite0, 224).items() if label not in ACCEPTED[name]}
    assert not wrong


@pytest.mark.slow
def test_lite2_sees_what_a_person_sees(lite2: BuiltModel) -> None:
    wrong = {name: label for name, label in answers(lite2, 260).items() if label not in ACCEPTED[name]}
    # The float model, too, sees the launch pad rather than the rocket.
    assert set(wrong) <= {"rocket.jpg"}
