"""The reference recognizer: a function hears in a recording what the gate heard, from features in the graph."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from cdk_inference import LambdaPlatform
from cdk_inference.model import BuiltModel, build_model
from cdk_inference.model.building.evaluation.data import load_function
from cdk_inference.model.building.evaluation.texts import word_error_rate
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.stages.builtin.audio import audio_preprocessor
from inference_runtime.stages.builtin.transcript import transcript_postprocessor
from inference_runtime.tensors.tensor import arrays_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[4] / "model_assets" / "spoken_digits"
HOST = LambdaPlatform.host().architecture
RATE = 8_000
RECORDINGS = {part: sorted((FOLDER / part).glob("*.flac")) for part in ("evaluation", "calibration")}


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return build_model(FOLDER / "recipe.py", architecture=HOST, frozen_lock=True)


@pytest.fixture
def hear(
    built: BuiltModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes, float | None], dict[str, Any]]:
    """Return the answer of a function to a recording, with silence up to a multiple of seconds."""
    (tmp_path / "model").symlink_to(built.path)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(FOLDER))
    answer = transcript_postprocessor("vocabulary.txt", "logits", 0)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    engine = LocalEngine()

    def heard(data: bytes, multiple: float | None) -> dict[str, Any]:
        read = audio_preprocessor(RATE, 10.0, pad_to_multiple_of=multiple, formats=("flac",))
        outputs = arrays_of(engine.infer(tensors_of({"samples": read(data, None)[None]})))
        return answer({name: array[0] for name, array in outputs.items()}, None)

    return heard


def test_the_weights_are_those_that_the_sources_name() -> None:
    digest = hashlib.sha256((FOLDER / "weights.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in FOLDER.with_name("SOURCES.md").read_text("utf-8")


def test_recordings_are_sound_of_digits_and_voices_are_not_shared() -> None:
    assert {part: len(files) for part, files in RECORDINGS.items()} == {"evaluation": 60, "calibration": 16}
    for file in (file for files in RECORDINGS.values() for file in files):
        assert re.fullmatch(r"\d\d-\d{1,7}", file.stem)
        info = soundfile.info(file)
        assert (info.format, info.samplerate, info.channels) == ("FLAC", RATE, 1)
        assert 0.5 < info.duration < 8
    said = {digit for file in RECORDINGS["evaluation"] for digit in file.stem[3:]}
    assert said == set("0123456789")
    # As text, since the script imports PyTorch.
    script = (FOLDER / "speech.py").read_text("utf-8")
    voices = dict(re.findall(r"^(\w*VOICES) = (\((?:[^()]|\([^()]*\))*\))", script, re.MULTILINE))
    trained, unheard = (set(re.findall(r'"(\w+)"', voices[name])) for name in ("VOICES", "UNHEARD_VOICES"))
    assert len(trained) > 30
    assert len(unheard) > 10
    assert not trained & unheard


def test_a_function_hears_what_the_gate_heard(built: BuiltModel, hear: Callable[..., dict[str, Any]]) -> None:
    words = load_function(FOLDER, "data.py:evaluation", "evaluation.data")
    labels = {digits: label for _, texts, names in words() for label, digits in zip(texts, names, strict=True)}
    files = RECORDINGS["evaluation"]
    found = [hear(file.read_bytes(), None)["text"] for file in files]
    metric = built.manifest.metric
    assert metric is not None
    assert metric.name == "word_error_rate"
    # Batches of the gate share the scale of their activations, and those of a function do not.
    assert word_error_rate(found, [labels[file.stem[3:]] for file in files]) == pytest.approx(
        metric.quantized, abs=0.01
    )
    padded = [hear(file.read_bytes(), 2.0)["text"] for file in files[:20]]
    assert word_error_rate(padded, found[:20]) <= 0.02


def test_the_card_tells_how_much_faster_than_sound_it_is(built: BuiltModel) -> None:
    measured, seconds = built.manifest.measured, built.manifest.sound_seconds
    assert measured is not None
    assert 1 < seconds < 8
    card = (built.path.parent / "card.md").read_text("utf-8")
    (row,) = re.findall(r"\| Real-time factor \| ([\d.e-]+) \| ([\d.e-]+) \|", card)
    assert [float(each) for each in row] == pytest.approx(
        [each / 1000 / seconds for each in (measured.float32_ms, measured.deployed_ms)], rel=0.02
    )


@pytest.mark.slow
def test_features_in_the_graph_are_those_of_a_fourier_transform() -> None:
    import torch

    factory = runpy.run_path(str(FOLDER / "factory.py"))
    samples = np.random.default_rng(0).normal(0, 0.1, 3_000).astype(np.float32)
    found = factory["LogMel"]()(torch.from_numpy(samples)[None])[0].numpy()
    window, hop = factory["WINDOW"], factory["HOP"]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples.astype(np.float64), window // 2), window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 1400), 42) / 2595) - 1)
    bands = np.stack([np.interp(np.fft.rfftfreq(window, 1 / RATE), edges[i : i + 3], [0, 1, 0]) for i in range(40)])
    np.testing.assert_allclose(found, np.log(bands @ power.T + 1e-6), atol=1e-3)
