"""The reference models that were trained here: digits (convolutions) and vowels (LSTM)."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.model import BuiltModel, build_model, load_recipe
from cdk_inference.model.building.evaluation.data import load_function

HOST = LambdaPlatform.host().architecture
ASSETS = Path(__file__).parents[4] / "model_assets"
SOURCES = (ASSETS / "SOURCES.md").read_text("utf-8")
NAMES = ("digits_cnn", "vowels_lstm")
# One process, since importing torch takes seconds.
TRAIN = """
import re, sys
from pathlib import Path

script, folder = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))
source = Path(script).read_text("utf-8")

def train(name, epochs):
    shorter, changes = re.subn(r"(?m)^EPOCHS = (\\d+)$", lambda line: f"EPOCHS = {epochs(int(line[1]))}", source)
    assert changes == 1
    sys.argv = [script, str(Path(folder, name))]
    exec(compile(shorter, script, "exec"), {"__name__": "__main__", "__file__": script})

train("one", lambda whole: 1), train("two", lambda whole: 1), train("third", lambda whole: whole // 3)
"""


def batches(name: str, function: str) -> list[Any]:
    return list(load_function(ASSETS / name, f"data.py:{function}", function)())


def accuracy(model: BuiltModel, name: str) -> float:
    session = ort.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    right = [
        np.argmax(session.run(["logits"], inputs)[0], axis=1) == labels
        for inputs, labels, _ in batches(name, "evaluation")
    ]
    return float(np.concatenate(right).mean())


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_the_sources_name(name: str) -> None:
    digest = hashlib.sha256((ASSETS / name / "weights.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in SOURCES


@pytest.mark.parametrize(("name", "samples", "classes"), [("digits_cnn", 450, 10), ("vowels_lstm", 370, 9)])
def test_evaluation_has_all_held_out_samples_with_labels_and_descriptions(
    name: str, samples: int, classes: int
) -> None:
    recipe, _ = load_recipe(ASSETS / name / "recipe.py")
    evaluation = batches(name, "evaluation")
    labels = np.concatenate([labels for _, labels, _ in evaluation])
    assert len(labels) == sum(len(descriptions) for *_, descriptions in evaluation) == samples
    assert set(labels) == set(range(classes))
    names = (ASSETS / name / str(recipe.evaluation.class_names)).read_text("utf-8").splitlines()
    assert len(set(names)) == classes == recipe.outputs[0].shape[1]
    # The model card shows the first dozen: not all of one kind.
    assert len(set(evaluation[0][1][:12])) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_samples_are_not_in_the_calibration(name: str) -> None:
    def contents(parts: list[dict[str, np.ndarray[Any, Any]]]) -> set[bytes]:
        main = "images" if name == "digits_cnn" else "frames"
        return {sample[np.any(sample != 0, axis=-1)].tobytes() for part in parts for sample in part[main]}

    calibration = contents(batches(name, "calibration"))
    assert len(calibration) >= 60
    assert not calibration & contents([inputs for inputs, *_ in batches(name, "evaluation")])


def test_digits_calibration_comes_from_the_training_part() -> None:
    images, _ = load_function(ASSETS / "digits_cnn", "data.py:training", "training")()
    assert len(images) == 1797 - 450
    known = {image.tobytes() for image in images}
    assert all(image.tobytes() in known for part in batches("digits_cnn", "calibration") for image in part["images"])


def test_vowels_are_read_as_the_file_has_them() -> None:
    utterances = load_function(ASSETS / "vowels_lstm", "data.py:utterances", "utterances")
    series, speakers = utterances("train")
    assert len(series) == 270
    assert {len(one) for one in series} == {*range(7, 27)} - {8}
    assert np.bincount(speakers).tolist() == [30] * 9
    with gzip.open(ASSETS / "vowels_lstm" / "train.ts.gz", "rt") as lines:
        first = next(line for line in lines if line[0].isdigit())
    assert first.startswith("1.860936,1.891651,")
    assert series[0][:2, 0].tolist() == pytest.approx([1.860936, 1.891651])


def test_vowels_are_padded_with_zeros_beyond_their_lengths() -> None:
    inputs, _, descriptions = batches("vowels_lstm", "evaluation")[0]
    assert inputs["frames"].shape[1] == inputs["lengths"].max() > inputs["lengths"].min()
    assert descriptions[0].endswith(f"{inputs['lengths'][0]} frames")
    for frames, length in zip(inputs["frames"], inputs["lengths"], strict=True):
        assert not frames[length:].any()
        assert frames[length - 1].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_training_repeats_its_result_and_learns(name: str, tmp_path: Path) -> None:
    """A third of the epochs comes close. Other processors and versions of PyTorch give other bytes than ours."""
    script = ASSETS / name / "train.py"
    done = subprocess.run(
        [sys.executable, "-B", "-c", TRAIN, script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() != (tmp_path / "third").read_bytes()
    recipe, _ = load_recipe(ASSETS / name / "recipe.py")
    *_, learned = re.findall(r"accuracy (0\.\d+)", done.stdout)
    assert float(learned) >= recipe.evaluation.floor - 0.02, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "baseline"), [("digits_cnn", 0.98), ("vowels_lstm", 0.95)])
def test_a_smaller_model_does_as_well_as_in_float(name: str, baseline: float) -> None:
    built = build_model(ASSETS / name / "recipe.py", architecture=HOST)
    manifest = built.manifest
    assert manifest.metric.baseline >= baseline
    assert manifest.metric.quantized >= manifest.metric.gate
    assert manifest.parity["exported"] == 1.0
    assert manifest.size_bytes * 3 <= manifest.baseline_size_bytes
    assert accuracy(built, name) == pytest.approx(manifest.metric.quantized, abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "longest"), [(1, 1), (1, 29), (5, 12), (3, 200)])
def test_vowels_model_takes_any_number_of_sequences_of_any_length(count: int, longest: int) -> None:
    built = build_model(ASSETS / "vowels_lstm" / "recipe.py", architecture=HOST)
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    frames = random.normal(size=(count, longest, 12)).astype(np.float32)
    lengths = random.integers(1, longest + 1, count)
    logits = session.run(["logits"], {"frames": frames, "lengths": lengths})[0]
    assert logits.shape == (count, 9)
    assert np.isfinite(logits).all()
