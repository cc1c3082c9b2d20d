"""The reference models through ONNX Runtime's C API: what they return is what its Python package returns."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.model import build_model, load_recipe
from cdk_inference.model.building.evaluation.data import load_function
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.tensors.tensor import tensors_of

HOST = LambdaPlatform.host().architecture
ASSETS = Path(__file__).parents[4] / "model_assets"


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "efficientnet_lite/lite0.py",
        "efficientnet_lite/lite2.py",
        "minilm/recipe.py",
        "digits_cnn/recipe.py",
        "vowels_lstm/recipe.py",
    ],
)
def test_both_engines_return_the_same_for_real_samples(recipe: str) -> None:
    path = ASSETS / recipe
    samples = load_function(path.parent, load_recipe(path)[0].evaluation.data, "evaluation")
    model = str(build_model(path, architecture=HOST).path / "model.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    theirs = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ours = CSession(model, Threads(1, spin=True))
    for inputs, *_ in islice(samples(), 2):
        expected = theirs.run([value.name for value in ours.outputs], inputs)
        for found, array in zip(ours.run(tensors_of(inputs)), expected, strict=True):
            np.testing.assert_array_equal(found.array(), array, strict=True)
