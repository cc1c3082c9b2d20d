"""The committed locks: they fit, and say what was measured when the precision was searched for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdk_inference.model import build_model
from cdk_inference.model.recipe.targets import ARCHITECTURES, Architecture
from cdk_inference.model.records.lock import Lock, read_lock

ROOT = Path(__file__).parents[4]
RECIPES = {
    "efficientnet-lite0": ROOT / "model_assets" / "efficientnet_lite" / "lite0.py",
    "efficientnet-lite2": ROOT / "model_assets" / "efficientnet_lite" / "lite2.py",
    "all-minilm-l6-v2": ROOT / "model_assets" / "minilm" / "recipe.py",
    "digits-cnn": ROOT / "model_assets" / "digits_cnn" / "recipe.py",
    "number-words": ROOT / "model_assets" / "number_words" / "recipe.py",
    "spoken-digits": ROOT / "model_assets" / "spoken_digits" / "recipe.py",
    "vowels-lstm": ROOT / "model_assets" / "vowels_lstm" / "recipe.py",
    "resnet18": ROOT / "tests" / "constructs" / "model" / "recipes" / "resnet18" / "recipe.py",
}


def lock_of(name: str, architecture: Architecture) -> Lock:
    lock = read_lock(RECIPES[name].parent / f"{name}.{architecture}.lock.json")
    assert lock is not None
    return lock


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", RECIPES)
def test_lock_fits_and_gives_the_model_that_it_names(name: str, architecture: Architecture) -> None:
    """If this fails, the recipe, its files, the tools or the build changed: search again on a quiet machine."""
    lock = lock_of(name, architecture)
    built = build_model(RECIPES[name], architecture=architecture, frozen_lock=True)
    assert lock.sha256.startswith(built.version)
    assert (built.manifest.metric, built.manifest.measured) == (lock.metric, lock.measured)
    assert (lock.target, architecture in built.manifest.exact_on) == (architecture, True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "speedup", "smaller", "quality"),
    [
        ("efficientnet-lite0", 1.9, 3.6, 0.95),
        ("efficientnet-lite2", 1.9, 3.6, 0.95),
        ("all-minilm-l6-v2", 2.0, 3.8, 0.995),
        ("digits-cnn", 1.0, 3.6, 0.98),
        ("vowels-lstm", 1.0, 3.4, 0.95),
        ("resnet18", 3.2, 3.9, 0.98),
    ],
)
def test_what_was_measured_is_as_good_as_it_should_be(
    name: str, speedup: float, smaller: float, quality: float, architecture: Architecture
) -> None:
    lock = lock_of(name, architecture)
    sizes = {c.status: c.size_bytes for c in lock.candidates}
    assert lock.measured.speedup >= speedup
    assert sizes["reference"] >= smaller * sizes["shipped"]
    assert lock.metric.quantized >= quality
    assert lock.measured.deployed_peak_mb < lock.measured.float32_peak_mb
