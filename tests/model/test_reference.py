"""The reference model, end to end on photographs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from cdk_inference.model import build_model, load_recipe
from cdk_inference.model.build.data import load_function
from inference_runtime.builtin.image import image_preprocessor

if TYPE_CHECKING:
    from cdk_inference.model import BuiltModel

ASSETS = Path(__file__).parents[2] / "model_assets"
RECIPE = ASSETS / "efficientnet_lite0" / "recipe.py"
LABELS = (RECIPE.parent / "labels.txt").read_text("utf-8").splitlines()
ACCEPTED = json.loads((ASSETS / "photographs" / "accepted.json").read_text("utf-8"))
SOURCES = (ASSETS / "SOURCES.md").read_text("utf-8")


@pytest.fixture(scope="module")
def reference() -> BuiltModel:
    """From the user's cache, as a synth would take it."""
    return build_model(RECIPE)


def test_labels_are_a_thousand_different_names() -> None:
    assert len(LABELS) == len(set(LABELS)) == 1000
    assert (LABELS[0], LABELS[281], LABELS[999]) == ("tench", "tabby", "toilet tissue")


def test_samples_all_have_labels_that_exist_and_a_source() -> None:
    photographs = {p.name for p in (ASSETS / "photographs").iterdir()} - {"accepted.json"}
    assert set(ACCEPTED) == photographs
    assert all(set(labels) <= set(LABELS) for labels in ACCEPTED.values())
    for path in (*ASSETS.glob("photographs/*.*g"), *RECIPE.parent.glob("*/*.jpg")):
        assert f"`{path.stem}`" in SOURCES


def test_evaluation_photographs_are_not_those_of_the_calibration() -> None:
    calibration, evaluation = (
        {p.stem for p in RECIPE.parent.glob(f"{f}/*.jpg")} for f in ("calibration", "evaluation")
    )
    assert len(calibration) >= 15
    assert len(evaluation) >= 10
    assert not calibration & evaluation


def test_data_is_cropped_as_the_deployed_preprocessing_crops() -> None:
    crop = load_function(RECIPE.parent, "data.py:crop", "data")
    for path in sorted((RECIPE.parent / "evaluation").glob("*.jpg"))[:4]:
        with Image.open(path) as image:
            ours = crop(image, 0.875, 0.5, 0.5, mirror=False)
        np.testing.assert_array_equal(ours, preprocess(path))


def preprocess(path: Path) -> np.ndarray[Any, Any]:
    item: Any = None  # the built-in looks at the bytes alone
    return image_preprocessor(size=224)(path.read_bytes(), item)


@pytest.mark.slow
def test_reference_model_is_small_and_close_to_float(reference: BuiltModel) -> None:
    manifest = reference.manifest
    assert manifest.size_bytes * 3.5 < manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.92
    assert manifest.parity["exported"] == 1.0
    assert manifest.parity["quantized"] >= 0.99


@pytest.mark.slow
def test_reference_model_sees_what_a_person_sees(reference: BuiltModel) -> None:
    session = ort.InferenceSession(reference.path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.stack([preprocess(ASSETS / "photographs" / name) for name in ACCEPTED])
    best = np.argmax(session.run(["logits"], {"images": images})[0], axis=1)
    answers = {name: LABELS[index] for name, index in zip(ACCEPTED, best, strict=True)}
    wrong = {name: label for name, label in answers.items() if label not in ACCEPTED[name]}
    assert not wrong


@pytest.mark.slow
def test_reference_model_has_the_same_bytes_from_another_folder(reference: BuiltModel, tmp_path: Path) -> None:
    shutil.copytree(RECIPE.parent, tmp_path / "copy")
    again = build_model(tmp_path / "copy" / "recipe.py", cache=tmp_path / "cache")
    assert load_recipe(RECIPE)[0] == load_recipe(tmp_path / "copy" / "recipe.py")[0]
    assert again.asset_hash == reference.asset_hash
    for name in ("model.onnx", "manifest.json"):
        assert (again.path / name).read_bytes() == (reference.path / name).read_bytes()
