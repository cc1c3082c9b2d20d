"""The example that writes down what is said: its weights, its features, and its decoder; all of a small network."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .pages import EXAMPLES, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    import torch

pytestmark = pytest.mark.xdist_group("torch")  # one process imports it

FOLDER = EXAMPLES / "dictation"
SIZE, LAYERS, TOKENS, PLACES = 12, 2, 20, 8


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's networks, made small, without gradients."""
    import torch

    spec = importlib.util.spec_from_file_location("dictation_factory", FOLDER / "factory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"SIZE": SIZE, "HEADS": 3, "LAYERS": LAYERS, "TOKENS": TOKENS, "PLACES": PLACES}.items():
        monkeypatch.setattr(module, name, value)
    with torch.inference_mode():
        yield module


def packaged(*, version: int = 6) -> bytes:
    """Return a file as the package has it, of random weights."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (SIZE, 80, 3),
        "encoder/conv1/bias": (SIZE,),
        "encoder/conv2/weight": (SIZE, SIZE, 3),
        "encoder/conv2/bias": (SIZE,),
        "encoder/position_encodings/encodings": (1500, SIZE),
        "decoder/position_encodings/encodings": (PLACES, SIZE),
        "decoder/embeddings/weight": (TOKENS, SIZE),
    }
    norms = ["encoder/layer_norm", "decoder/layer_norm"]
    for layer in range(LAYERS):
        for graph in ("encoder", "decoder"):
            at = f"{graph}/layer_{layer}"
            products = {"self_attention/linear_0": (3, 1), "self_attention/linear_1": (1, 1)}
            products |= {"ffn/linear_0": (4, 1), "ffn/linear_1": (1, 4)}
            norms += [f"{at}/self_attention/layer_norm", f"{at}/ffn/layer_norm"]
            if graph == "decoder":
                products |= {"attention/linear_0": (1, 1), "attention/linear_1": (2, 1), "attention/linear_2": (1, 1)}
                norms.append(f"{at}/attention/layer_norm")
            for name, (rows, columns) in products.items():
                shapes |= {f"{at}/{name}/weight": (rows * SIZE, columns * SIZE), f"{at}/{name}/bias": (rows * SIZE,)}
    shapes |= {f"{norm}/{part}": (SIZE,) for norm in norms for part in ("gamma", "beta")}
    random = np.random.default_rng(0)
    weights = [(name, 4, shape, random.normal(0, 0.3, shape).astype(np.float16)) for name, shape in shapes.items()]
    weights.append(("decoder/num_heads", 2, (), np.array(3, np.int16)))
    text = b"".join(
        struct.pack(
            f"<H{len(name) + 1}sB{len(shape)}IBI", len(name) + 1, name.encode(), len(shape), *shape, kind, v.nbytes
        )
        + v.tobytes()
        for name, kind, shape, v in weights
    )
    head = struct.pack("<IH12sII", version, 12, b"WhisperSpec", 3, len(weights))
    return head + text


@pytest.fixture
def decoder(factory: ModuleType, tmp_path: Path) -> torch.nn.Module:
    (tmp_path / "model.bin").write_bytes(packaged())
    tensors = runpy.run_path(str(FOLDER / "prepare.py"))["state_dicts"](tmp_path / "model.bin")
    factory.encoder().load_state_dict(tensors["encoder"])  # each weight has its place, and each place its weight
    made = factory.decoder().eval()
    made.load_state_dict(tensors["decoder"])
    return made


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(packaged(version=7))
    with pytest.raises(SystemExit, match="must be version 6 of WhisperSpec, revision 3, got 7, WhisperSpec, 3"):
        runpy.run_path(str(FOLDER / "prepare.py"))["state_dicts"](tmp_path / "model.bin")


def test_a_decoder_that_remembers_answers_as_one_that_reads_all_at_once(
    decoder: Any, factory: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.manual_seed(0)
    heard = torch.randn(2 * LAYERS, 1, 3, 7, 4).unbind()
    decoder.places.weight.zero_()  # it takes one place alone
    tokens, past = torch.tensor([[3, 5, 11]]), list(torch.zeros(2 * LAYERS, 1, 3, 0, 4).unbind())
    for step in range(3):
        logits, *past = decoder(tokens[:, step : step + 1], torch.tensor([step]), *heard, *past)
    attend = factory.scaled_dot_product_attention
    monkeypatch.setattr(
        factory, "scaled_dot_product_attention", lambda q, k, v: attend(q, k, v, is_causal=q.shape[2] == k.shape[2])
    )
    none = torch.zeros(2 * LAYERS, 1, 3, 0, 4).unbind()
    expected, *longer = decoder(tokens, torch.tensor([0]), *heard, *none)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(past, longer)


def test_features_are_the_power_in_bands(factory: ModuleType) -> None:
    """Computed anew by a Fourier transform, as Whisper does it."""
    import torch

    random = np.random.default_rng(0)
    samples = random.normal(0, 0.1, 16_000).astype(np.float32)
    found = factory.LogMel()(torch.from_numpy(samples[None]))[0].numpy()
    whole = np.pad(np.pad(samples, (0, 29 * 16_000)), 200, mode="reflect").astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(whole, 400)[::160][:-1]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1])) ** 2

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hertz(mel) for mel in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)]
    at = np.arange(201) * 40
    bands = [
        np.interp(at, edges[band : band + 3], [0, 1, 0]) * 2 / (edges[band + 2] - edges[band]) for band in range(80)
    ]
    logarithms = np.log10(np.maximum(np.array(bands) @ power.T, 1e-10))
    np.testing.assert_allclose(found, (np.maximum(logarithms, logarithms.max() - 8) + 4) / 4, atol=1e-3)


@pytest.mark.slow
def test_the_app_synthesizes(synthesized: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "dictation")
    shutil.copyfile(
        ROOT / "tests" / "e2e" / "triggers" / "app" / "writer" / "tokenizer.json", folder / "tokenizer.json"
    )
    resources = synthesized(str(folder / "app.py"))["Resources"].values()
    (variables,) = (
        each["Properties"]["Environment"]["Variables"]
        for each in resources
        if each["Type"] == "AWS::Lambda::Function"
        and "PREPROCESS_FUNCTION" in each["Properties"]["Environment"]["Variables"]
    )
    assert json.loads(variables["PREPROCESS_OPTIONS"])["sample_rate"] == 16_000
    assert [spec["name"] for spec in json.loads(variables["MODEL_INPUTS"])] == ["samples"]
