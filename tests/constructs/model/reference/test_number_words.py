"""The reference model of several graphs says what a plain loop in PyTorch says, token by token."""

from __future__ import annotations

import hashlib
import importlib
import runpy
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.model import BuiltModel, Float32, build_model
from cdk_inference.model.building.evaluation.opening import open_model
from cdk_inference.model.card import render
from cdk_inference.model.files import weights
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.stages.builtin.vocabulary import read_vocabulary
from inference_runtime.tensors.tensor import arrays_of, tensors_of

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[4] / "model_assets" / "number_words"
HOST = LambdaPlatform.host().architecture
END, STEPS = 2, 12


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return build_model(FOLDER / "recipe.py", architecture=HOST, frozen_lock=True)


@pytest.fixture(scope="module")
def data() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.delitem(sys.modules, "data", raising=False)
        module = importlib.import_module("data")
        del sys.modules["data"]
        return module


@pytest.fixture(scope="module")
def float32() -> bytes:
    """The float model, packed."""
    return weights.join(weights.entry(build_model(FOLDER / "recipe.py", precision=Float32()).path))


def test_the_weights_are_those_that_the_sources_name() -> None:
    sources = FOLDER.with_name("SOURCES.md").read_text("utf-8")
    for name in ("encoder", "decoder"):
        assert f"`{hashlib.sha256((FOLDER / f'{name}.safetensors').read_bytes()).hexdigest()}`" in sources


def test_the_manifest_knows_the_graphs(built: BuiltModel) -> None:
    manifest = built.manifest
    assert set(manifest.graphs) == {"encoder", "decoder"}
    assert {graph.architecture for graph in manifest.graphs.values()} == {"transformer"}
    files = {file.name for file in weights.files(built.path)}
    assert files == {f"{name}.{end}" for name in manifest.graphs for end in ("onnx", "weights")} | {"driver.json"}
    assert {file.name for file in built.path.iterdir()} == files | {"manifest.json"}
    parts = sum(graph.size_bytes for graph in manifest.graphs.values())
    assert manifest.size_bytes == parts + (built.path / "driver.json").stat().st_size
    assert manifest.metric is not None
    assert manifest.metric.quantized >= 0.98
    assert type(manifest).from_json(manifest.to_json()) == manifest


def test_the_card_names_the_graphs(built: BuiltModel, tmp_path: Path) -> None:
    entry = shutil.copytree(built.path.parent, tmp_path / "entry")
    render(entry)
    card = (entry / "card.md").read_text("utf-8")
    assert "encoder, decoder; greedy" in card
    decoder = built.manifest.graphs["decoder"]
    assert f"transformer, {decoder.precision.replace('_', ' ')}, {decoder.size_bytes / 1e6:.2f} MB" in card


def test_the_engine_of_a_function_says_numbers_in_words(
    built: BuiltModel, data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(built.path)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.setenv("MAX_BATCH", "1" if built.manifest.batch_dependent else "0")
    numbers = [0, 7, 40, 913, 1_000, 70_013, 999_999, 512_003]
    outputs = arrays_of(LocalEngine().infer(tensors_of({"digits": data.digits(np.array(numbers))})))
    vocabulary = read_vocabulary(str(FOLDER / "vocabulary.txt"))
    assert [vocabulary.text(row) for row in outputs["tokens"].tolist()] == [" ".join(data.words(n)) for n in numbers]
    assert (outputs["scores"] <= 0).all()


@pytest.mark.slow
def test_tokens_are_those_of_a_plain_loop_in_pytorch(float32: bytes, data: ModuleType) -> None:
    import torch
    from safetensors.torch import load_file

    factory = runpy.run_path(str(FOLDER / "factory.py"))
    encoder, decoder = factory["encoder"]().eval(), factory["decoder"]().eval()
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        module.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    digits = np.concatenate([inputs["digits"] for inputs, *_ in data.evaluation()])[:120]
    tokens, scores = open_model(float32).run(["tokens", "scores"], {"digits": digits})
    with torch.inference_mode():
        memory = encoder(torch.from_numpy(digits))
        for row, (found, score) in enumerate(zip(tokens.tolist(), scores, strict=True)):
            said, total = [1], 0.0
            while len(said) <= STEPS:
                logits = decoder.all_at_once(torch.tensor([said]), memory[row : row + 1])[0, -1]
                logits[0] = -torch.inf
                said.append(int(logits.argmax()))
                total += float(logits.log_softmax(0).max())
                if said[-1] == END:
                    break
            whole = [token for token in said[1:] if token != END]
            assert found == [*whole, *[END] * (STEPS - len(whole))]
            assert score == pytest.approx(total, abs=1e-3)
