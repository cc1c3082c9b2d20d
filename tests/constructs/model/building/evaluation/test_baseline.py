"""The baseline of drift: what the build counts is what the functions count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule
from cdk_inference.model.building.evaluation.baseline import MOST_BINS, baseline, observe
from cdk_inference.model.building.evaluation.data import Samples
from cdk_inference.model.records.lock import read_lock
from cdk_inference.model.records.manifest import Manifest
from inference_runtime.monitoring.observations import KINDS, Observed, bins_of, value

if TYPE_CHECKING:
    from cdk_inference.model import BuiltModel

ROOT = Path(__file__).parents[5]
SHAPES = {
    "sharpness": [(9, 8, 3), (3, 8, 9), (1, 5)],
    "contrast": [(4, 5), (7,)],
    "mean": [(4, 5), (7,)],
    "brightness": [(4, 5, 3)],
}


def recipe_of(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> ModelRecipe:
    return ModelRecipe(
        name="tiny",
        source=TorchModule("factory.py:build"),
        precision=Float32(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        evaluation=Evaluation(data="data.py:evaluation"),
        provenance=Provenance(license="Apache-2.0", origin="made for these tests"),
    )


@pytest.mark.parametrize("kind", [*KINDS, "feature 2", "projection 3"])
def test_functions_observe_the_numbers_of_the_build(kind: str) -> None:
    for shape in SHAPES.get(kind, [(7,), (40,)]):
        batch = np.random.default_rng(1).normal(size=(30, *shape)).astype(np.float32)
        if len(shape) == 1:  # probabilities, and one class alone
            batch[:10] = np.exp(batch[:10]) / np.exp(batch[:10]).sum(axis=1, keepdims=True)
            batch[10] = np.eye(shape[0])[0]
        np.testing.assert_allclose(observe(kind, batch), [value(kind, one) for one in batch], rtol=1e-9, atol=1e-12)


def made(random: np.random.Generator, count: int, **tensors: Any) -> tuple[Any, ...]:
    inputs = [TensorSpec("pixels", "uint8", ("batch", 8, 8, 3)), TensorSpec("numbers", "float32", ("batch", 3))]
    outputs = [TensorSpec("scores", "float32", ("batch", 4)), TensorSpec("vector", "float32", ("batch", 64))]
    batch = {
        "pixels": random.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8),
        "numbers": random.normal(size=(count, 3)).astype(np.float32),
        **tensors,
    }
    answers = [random.normal(size=(count, 4)).astype(np.float32), random.normal(size=(count, 64)).astype(np.float32)]
    return recipe_of(inputs, outputs), Samples([batch]), [answers]


@settings(max_examples=10)
@given(st.integers(8, 60), st.integers(0, 2**32))
def test_the_counts_are_those_of_the_samples_that_place_no_edges(count: int, seed: int) -> None:
    recipe, samples, outputs = made(np.random.default_rng(seed), count)
    for one in baseline(recipe, samples, outputs):
        tensor = samples.inputs[0].get(one.tensor, outputs[0][0 if one.tensor == "scores" else 1])
        counted = tensor if one.kind == "label" and one.tensor == "scores" else np.delete(tensor, np.s_[::4], axis=0)
        expected = [0] * (len(one.edges) + 1)
        for sample in counted:
            (place,) = bins_of([Observed(one.tensor, one.kind, one.edges)], {one.tensor: sample})
            expected[place] += 1
        assert list(one.counts) == expected
        assert list(one.edges) == sorted(set(one.edges))
        assert len(one.counts) <= MOST_BINS


def test_what_is_observed_follows_from_the_tensors() -> None:
    recipe, samples, outputs = made(np.random.default_rng(1), 400)
    kinds: dict[str, list[str]] = {}
    for one in baseline(recipe, samples, outputs):
        kinds.setdefault(one.tensor, []).append(one.kind)
    vector = ["length", "projection 1", "projection 2", "projection 3", "projection 4"]
    classes = ["label", "confidence", "margin", "entropy"]
    assert kinds == {
        "scores": [*classes, "feature 0", "feature 1", "feature 2", "feature 3"],
        "vector": [*classes, *vector],
        "pixels": ["brightness", "contrast", "sharpness"],
        "numbers": ["feature 0", "feature 1", "feature 2"],
    }


def test_a_text_counts_by_its_tokens() -> None:
    random = np.random.default_rng(1)
    inputs = [TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")]
    mask = (np.arange(32) < random.integers(1, 32, (200, 1))).astype(np.int64)
    recipe = recipe_of(inputs, [TensorSpec("y", "float32", ("batch",))])
    samples = Samples([{"input_ids": mask * 7, "attention_mask": mask}])
    found = baseline(recipe, samples, [[random.normal(size=200).astype(np.float32)]])
    assert [(one.tensor, one.kind) for one in found] == [("y", "feature 0"), ("attention_mask", "tokens")]


def test_a_number_that_never_changes_is_not_observed() -> None:
    random = np.random.default_rng(1)
    same = np.ones((100, 3), np.float32) + random.normal(size=(100, 3)).astype(np.float32) * 1e-7
    recipe, samples, outputs = made(random, 100, numbers=same)
    assert "numbers" not in {one.tensor for one in baseline(recipe, samples, outputs)}


def test_missing_values_are_in_the_last_bin_and_place_no_edges() -> None:
    random = np.random.default_rng(1)
    numbers = random.normal(size=(100, 3)).astype(np.float32)
    numbers[::3, 0] = np.nan
    numbers[:, 1] = np.nan
    recipe, samples, outputs = made(random, 100, numbers=numbers)
    first, last = (one for one in baseline(recipe, samples, outputs) if one.tensor == "numbers")
    assert (first.kind, last.kind) == ("feature 0", "feature 2")
    assert np.isfinite(first.edges).all()
    assert first.counts[-1] >= np.isnan(np.delete(numbers[:, 0], np.s_[::4])).sum()
    assert bins_of([Observed("numbers", "feature 0", first.edges)], {"numbers": numbers[0]}) == [len(first.edges)]


def test_strings_are_not_observed() -> None:
    inputs = [TensorSpec("town", "string", ("batch", 1))]
    recipe = recipe_of(inputs, [TensorSpec("y", "float32", ("batch",))])
    samples = Samples([{"town": np.array([["Oslo"], ["Köln"]] * 20)}])
    found = baseline(recipe, samples, [[np.arange(40, dtype=np.float32)]])
    assert [one.tensor for one in found] == ["y"]


@pytest.mark.slow
def test_a_build_has_the_baseline_in_its_manifest(tiny: tuple[Path, Path, BuiltModel]) -> None:
    manifest = tiny[2].manifest
    assert {one.kind for one in manifest.baseline} >= {"label", "confidence", "brightness", "sharpness"}
    assert {sum(one.counts) for one in manifest.baseline} == {24, 32}
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("path", sorted(ROOT.glob("model_assets/**/*64.lock.json")), ids=lambda path: path.name)
def test_locks_from_before_there_were_baselines_stay_as_they_are(path: Path) -> None:
    lock = read_lock(path)
    assert lock is not None
    assert lock.to_json() == path.read_text("utf-8")
