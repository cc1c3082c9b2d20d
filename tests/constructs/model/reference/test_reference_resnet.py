"""The savings of int8 on a network like ResNet-18."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.model import build_model
from cdk_inference.model.building.evaluation.data import load_function

HOST = LambdaPlatform.host().architecture
FOLDER = Path(__file__).parents[1] / "recipes" / "resnet18"


@pytest.mark.slow
def test_resnet_is_a_quarter_in_size_and_close_to_float() -> None:
    manifest = build_model(FOLDER / "recipe.py", architecture=HOST).manifest
    assert manifest.precision == "static_int8"
    assert manifest.size_bytes * 3.9 <= manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.98
    assert manifest.parity["exported"] == 1.0


@pytest.mark.slow
def test_resnet_outputs_of_different_images_are_not_alike() -> None:
    """Otherwise any outputs would pass the gate."""
    built = build_model(FOLDER / "recipe.py", architecture=HOST)
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], next(iter(load_function(FOLDER, "data.py:evaluation", "evaluation")())))[0]
    unit = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    assert (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean() < 0.6
