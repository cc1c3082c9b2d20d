"""Builds of a tiny network, each in a separate process as in production."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cdk_inference.errors import ModelBuildError, ModelGateError
from cdk_inference.model import build_model, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow

SYNTH = """
import os, sys
from cdk_inference.model import build_model
os.umask(0o077)
print(build_model(sys.argv[1]).asset_hash)
print([m for m in ("torch", "onnx", "onnxruntime", "numpy") if m in sys.modules])
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_artifact_is_an_int8_model_with_its_manifest(tiny: tuple[Path, Path, BuiltModel]) -> None:
    built = tiny[2]
    assert names(built.path) == ["manifest.json", "model.onnx"]
    model = onnx.load(built.path / "model.onnx")
    weights = {w.name: w for w in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "QLinearConv"]
    assert [weights[n.input[3]].data_type for n in convolutions] == [onnx.TensorProto.INT8] * 2
    assert [list(weights[n.input[4]].dims) for n in convolutions] == [[8], [16]]  # a scale per channel
    manifest = built.manifest
    assert manifest.opset == {o.domain: o.version for o in model.opset_import}[""]
    assert manifest.size_bytes == (built.path / "model.onnx").stat().st_size
    assert manifest.precision == "static_int8"
    assert manifest.metric.quantized >= manifest.metric.gate == 0.9
    assert built.version == manifest.model_version


def test_artifact_takes_any_batch_and_answers_like_the_float_model(tiny: tuple[Path, Path, BuiltModel]) -> None:
    built = tiny[2]
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(7).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    together = session.run(["scores"], {"images": images})[0]
    one_by_one = np.concatenate([session.run(["scores"], {"images": images[i : i + 1]})[0] for i in range(5)])
    assert together.shape == (5, 5)
    np.testing.assert_array_equal(together, one_by_one)
    assert len(np.unique(together)) > 5  # not clipped into a corner
    report = json.loads(built.report.read_text())
    float32, int8 = report["candidates"]
    assert (float32["status"], int8["status"]) == ("reference", "shipped")
    assert int8["cosine"] > 0.99
    assert min(float32["latency_ms"], int8["latency_ms"], int8["speedup"]) > 0


def test_graph_names_nothing_of_the_machine_it_was_built_on(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, _, built = tiny
    data = (built.path / "model.onnx").read_bytes() + (built.path / "manifest.json").read_bytes()
    for trace in (str(recipe.parent), "site-packages", "conv2d", "Tiny"):
        assert trace.encode() not in data


def test_same_recipe_gives_the_same_bytes_elsewhere_and_builds_once(
    tiny: tuple[Path, Path, BuiltModel], make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Another folder, hash seed, umask, working folder and cache; two processes at once, neither with torch."""
    built = tiny[2]
    recipe = make_recipe(to="a/much/deeper folder")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SYNTH, recipe],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "CDK_INFERENCE_CACHE": str(tmp_path / "cache"), "CDK_INFERENCE_PASSES": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("7", "8")
    ]
    results = [process.communicate() for process in processes]
    assert [out.split() for out, _ in results] == [[built.asset_hash, "[]"]] * 2
    (entry,) = (p for p in (tmp_path / "cache" / "models").iterdir() if p.is_dir())
    for name in ("model.onnx", "manifest.json"):
        assert (entry / "artifact" / name).read_bytes() == (built.path / name).read_bytes()

    waited, progress = sorted((err.splitlines() for _, err in results), key=len)
    assert waited == []
    assert progress[0] == "model tiny: not in the cache, building"
    passes = (
        "example",
        "export",
        "clean",
        "data",
        "evaluate: float32",
        "measure",
        "prepare: calibration",
        "candidates",
    )
    for name in (*passes, "package", "card"):
        begun, done = [line for line in progress if line.startswith(f"model tiny: {name}")][:2]
        assert done.startswith(f"{begun} ("), name  # two lines, as a local deployment asks for
    assert progress[-1].startswith(f"model tiny: version {built.version}, static_int8, ")


def test_warm_build_starts_nothing_and_is_quiet(
    tiny: tuple[Path, Path, BuiltModel], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache, built = tiny
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it starts a process"))
    assert build_model(recipe, cache=cache) == built
    assert capfd.readouterr() == ("", "")


@pytest.mark.performance
def test_warm_build_is_quick(tiny: tuple[Path, Path, BuiltModel]) -> None:
    recipe, cache, built = tiny
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        assert build_model(recipe, cache=cache) == built
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_damaged_and_half_written_entries_are_built_again(
    tiny: tuple[Path, Path, BuiltModel], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, cache, built = tiny
    shutil.copytree(cache, tmp_path / "cache")
    entry = tmp_path / "cache" / built.path.parent.relative_to(cache)
    half = entry.parent / f".{entry.name}.building" / "artifact"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    with (entry / "artifact" / "model.onnx").open("r+b") as file:
        file.truncate(100)
    again = build_model(recipe, cache=tmp_path / "cache")
    assert (again.version, again.asset_hash) == (built.version, built.asset_hash)
    assert "not in the cache, building" in capfd.readouterr().err
    assert not half.exists()


def test_float32_ships_the_exported_graph(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    file = make_recipe(
        recipe=("StaticInt8()", "Float32()"),
        data=("return batches(2)", 'return ({"images": b["images"][:1]} for b in batches(2))'),  # batches of one
    )
    recipe, folder = load_recipe(file)
    built = build_model(recipe, folder=folder, cache=tmp_path / "cache")
    assert built.manifest.precision == "float32"
    assert built.manifest.size_bytes == built.manifest.baseline_size_bytes
    assert built.manifest.metric.quantized == 1.0
    session = ort.InferenceSession(built.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["scores"], {"images": np.zeros((3, 16, 16, 3), np.uint8)})[0].shape == (3, 5)


def failing_build(file: Path, cache: Path, kind: type[ModelBuildError] = ModelBuildError) -> str:
    with pytest.raises(ModelBuildError) as error:
        build_model(file, cache=cache)
    assert type(error.value) is kind
    message = str(error.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert not [p for p in (cache / "models").iterdir() if p.is_dir()]  # nothing half built stays
    return message


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        pytest.param(
            {"factory": ("return self.head(", "return torch.log(torch.zeros(5)) * self.head(")},
            "model 'tiny': the original, evaluation batch 0: output 'scores' must be finite, got 40 of 40 values",
            id="not finite",
        ),
        pytest.param(
            {"factory": ("model = Tiny()", "import os; os._exit(3)")},
            "model 'tiny' cannot be built: the build process ended with code 3 in the pass 'export'; see ",
            id="process ends",
        ),
        pytest.param(
            {"factory": ("model = Tiny()", "import os; os.kill(os.getpid(), 9)")},
            "model 'tiny' cannot be built: the build process was killed, most likely because the machine ran out of "
            "memory in the pass 'export'; build on a machine with more memory, or with less running next to the ",
            id="process is killed",
        ),
        pytest.param(
            {"factory": ("model = Tiny()", "import os; os.abort()")},
            "model 'tiny' cannot be built: the build process was ended by signal 6 (SIGABRT) in the pass 'export'; ",
            id="process crashes",
        ),
        pytest.param(
            {"data": ("def evaluation():", "def evaluation():\n    np.ones(2**55)")},
            "model 'tiny': example must fit into memory, got MemoryError: Unable to allocate 256. PiB for an "
            "array with shape (36028797018963968,) and data type float64 (data.py line 15); build on a machine with ",
            id="no memory",
        ),
        pytest.param(
            {"data": ("def evaluation():", "def evaluation():\n    1 / 0")},
            "model 'tiny': example failed with ZeroDivisionError: division by zero (data.py line 15); the",
            id="data raise",
        ),
        pytest.param(
            {"data": ("def evaluation():", "def evaluation():\n    raise OSError('who enters must pass the gate')")},
            "model 'tiny': example failed with OSError: who enters must pass the gate (data.py line 15); the",
            id="data raise what sounds like a gate",
        ),
        pytest.param(
            {
                "data": (
                    "def evaluation():",
                    "def evaluation():\n    open(__file__.replace('data.py', 'NOTE' + 'S.md'))",
                )
            },
            "model 'tiny': the build must notice changes of all files that it reads, got NOTES.md in ",
            id="unnoticed file",
        ),
        pytest.param(
            {"data": ("def calibration():\n    return batches(1)", "def calibration():\n    return []")},
            "model 'tiny': calibration 'data.py:calibration' must yield at least one batch, got none",
            id="no calibration data",
        ),
    ],
)
def test_model_that_cannot_be_built_fails_with_one_message(
    make_recipe: Callable[..., Path], tmp_path: Path, changes: dict[str, tuple[str, str]], start: str
) -> None:
    recipe = make_recipe(**changes)
    (recipe.parent / "NOTES.md").write_text("nothing that the code names")
    message = failing_build(recipe, tmp_path / "cache")
    assert message.startswith(start)
    if ".log" in message:
        assert Path(message.rpartition(" ")[2]).is_file()


def test_model_below_its_gate_fails_with_metric_and_ways_out(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Calibrated on black images only, everything brighter is clipped."""
    file = make_recipe(data=("def calibration():\n    return batches(1)", BLACK))
    message = failing_build(file, tmp_path / "cache", ModelGateError)
    start = (
        "model 'tiny': precision must be one that passes the gate, got static int8, percentile 99.99: top1_agreement 0."
    )
    assert message.startswith(start)
    assert "is below the gate 0.9 (float32 has 1, max_drop=0.1); calibrate on data closer" in message
    assert "precision=Auto()" in message


BLACK = """
def calibration():
    yield {"images": np.zeros((8, 16, 16, 3), np.uint8)}
"""


def test_build_without_the_extra_fails_with_its_name(
    make_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path" / "torch").mkdir(parents=True)
    (tmp_path / "path" / "torch" / "__init__.py").write_text("raise ImportError('libtorch is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    message = failing_build(make_recipe(), tmp_path / "cache")
    needed = 'building a model needs the "model" extra: pip install "cdk-inference[model]"'
    assert message == f"model 'tiny': {needed} (libtorch is missing)"


def test_package_that_is_not_installed_fails_with_its_name(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    file = make_recipe(recipe=('origin="random numbers"),', 'origin="random numbers"), packages=("no-such-one",),'))
    with pytest.raises(ModelBuildError, match="recipe 'tiny' needs package 'no-such-one', which is not installed; pip"):
        build_model(file, cache=tmp_path)


def test_recipe_object_without_its_folder_fails(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe, _ = load_recipe(make_recipe())
    with pytest.raises(ModelBuildError, match=r"folder must be given with recipe 'tiny', .* pass the folder"):
        build_model(recipe, cache=tmp_path)
    with pytest.raises(ModelBuildError, match=r"folder of recipe 'tiny' must exist, got .*nowhere"):
        build_model(recipe, folder=tmp_path / "nowhere", cache=tmp_path)
