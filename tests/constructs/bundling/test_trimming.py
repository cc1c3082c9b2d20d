"""Trimmed wheels keep what functions import: all of it is tried in a Python that has nothing else."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from cdk_inference import LambdaPlatform
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.bundling.trimming import chosen_files, needed_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aws_cdk import Stack

    from cdk_inference.bundling.packages import Engine

PIP_INSTALLED = 144_000_000  # bytes of onnxruntime with what pip installs next to it, see docs/operate/performance.md


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return folder


def test_files_for_compilers_and_type_checkers_stay_out(tmp_path: Path) -> None:
    write(tmp_path, "alpha/__init__.py", "alpha/lib/libalpha.so.1", "alpha/_decl.h", "alpha/data.csv", "alpha/a.f90")
    left = sorted(needed_files(tmp_path))
    write(tmp_path, "alpha/py.typed", "alpha/__init__.pyi", "alpha/only.pyi", "alpha/lib/libalpha.a", "alpha/c.pxd")
    write(tmp_path, "alpha/__pycache__/__init__.cpython-314.pyc", "bin/alpha")
    assert sorted(needed_files(tmp_path)) == left
    assert len(left) == 5


def test_stub_that_a_module_reads_stays(tmp_path: Path) -> None:
    write(tmp_path, "scenes/__init__.pyi", "scenes/inner/__init__.pyi", "scenes/inner/__init__.py")
    (tmp_path / "scenes" / "__init__.py").write_text(
        "import lazy_loader as lazy\n__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)\n"
    )
    assert sorted(needed_files(tmp_path)) == ["scenes/__init__.py", "scenes/__init__.pyi", "scenes/inner/__init__.py"]


def test_licenses_stay_wherever_they_are(tmp_path: Path) -> None:
    licenses = ["numpy/f2py/src/LICENSE.txt", "numpy/_core/include/COPYING", "alpha-1.0.dist-info/licenses/NOTICE"]
    write(tmp_path, *licenses, "numpy/tests/licenses.py", "numpy/tests/test_license.py")
    assert sorted(needed_files(tmp_path)) == sorted(licenses)


def test_patterns_without_a_file_are_told(tmp_path: Path) -> None:
    write(tmp_path, "alpha/lib.so.1", "alpha/other.so", "alpha-1.0.dist-info/METADATA", "alpha-1.0.dist-info/RECORD")
    files, missing = chosen_files(tmp_path, ["alpha/lib.so.*", "alpha/gone*"])
    assert (sorted(files), missing) == (["alpha-1.0.dist-info/METADATA", "alpha/lib.so.1"], ["alpha/gone*"])


# --- the real packages --------------------------------------------------------------------------------------------

# Runs in the package, as the function does. A module that fails because of another one of the same packages misses
# what was left out; all others miss what they would miss anywhere.
IMPORT_ALL = """
import importlib, io, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
roots = json.loads(sys.argv[1])
missing, imported = {}, 0
names = list(roots)
for root in roots:
    package = importlib.import_module(root)
    if hasattr(package, "__path__"):
        names += [m.name for m in pkgutil.walk_packages(package.__path__, root + ".", onerror=lambda name: None)]
stdout, sys.stdout = sys.stdout, io.StringIO()
for name in names:
    if name.endswith("__main__") or ".lib" in name and "onnxruntime" in name:
        continue  # a shared library is no module
    try:
        importlib.import_module(name)
        imported += 1
    except BaseException as error:
        lost = getattr(error, "name", None) or ""
        if lost.split(".")[0] in roots or not isinstance(error, ImportError):
            missing[name] = repr(error)
print(json.dumps({"missing": missing, "imported": imported}), file=stdout)
"""
USE = """
import io, json, sys
from numpy import *
import numpy as np
rng = np.random.default_rng(0)
a = rng.normal(size=(8, 8))
assert np.allclose(np.linalg.inv(a) @ a, np.eye(8)) and np.allclose(np.fft.ifft(np.fft.fft(a)).real, a)
np.testing.assert_allclose(np.polynomial.Polynomial([1, 2])(3), 7)
assert np.ma.masked_less([1, 2, 3], 2).sum() == 5 and np.strings.upper("a") == "A" and np.char.lower("B") == "b"
file = io.BytesIO(); np.savez_compressed(file, a=a); file.seek(0); assert (np.load(file)["a"] == a).all()
import numpy.typing, numpy.ctypeslib, numpy.lib.stride_tricks, numpy.dtypes, numpy.rec
np.show_config(mode="dicts")

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, features
image = Image.fromarray((a * 10).astype("uint8")).resize((32, 32)).convert("RGB").filter(ImageFilter.BLUR)
ImageDraw.Draw(image).text((0, 0), "x", font=ImageFont.load_default())
for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "JPEG2000"):
    file = io.BytesIO(); image.save(file, kind); file.seek(0)
    assert Image.open(file).convert("RGB").size == (32, 32), kind
assert features.check("freetype2") and ImageOps.exif_transpose(image).size == (32, 32)

import soundfile
for kind, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")):
    file = io.BytesIO(); soundfile.write(file, np.zeros(800), 8000, subtype, format=kind); file.seek(0)
    assert len(soundfile.read(file)[0]) == 800, subtype

import av
file = io.BytesIO()
with av.open(file, "w", format="mp4") as written:
    track = written.add_stream("libx264", rate=25); track.width = track.height = 64; track.pix_fmt = "yuv420p"
    written.mux(track.encode(av.VideoFrame(64, 64, "yuv420p"))); written.mux(track.encode())
file.seek(0); assert [frame.to_image().size for frame in av.open(file).decode(video=0)] == [(64, 64)]

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
tokenizer = Tokenizer(models.WordLevel(unk_token="?")); tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(["a b"], trainers.WordLevelTrainer(special_tokens=["?"]))
assert len(tokenizer.encode("b a c").ids) == 3

from aws_lambda_powertools import Logger, Metrics
Logger(service="x").debug("x")
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
assert session.run(None, {"x": np.ones((2, 3), np.float32)})[0].tolist() == [[2, 2, 2]] * 2
try:
    session.run(None, {"x": np.ones((2, 4), np.float32)})
except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
    assert "Got: 4 Expected: 3" in str(error)
print(onnxruntime.__version__)
"""
HANDLE = """
import json, sys
from inference_runtime.handlers import infer
answer = infer.handler(json.loads(sys.argv[1]), None)
print(json.dumps({
    "groups": answer["groups"],
    "numpy": "numpy" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def shared_cache(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("bundles", lambda folder: None)


@pytest.fixture(autouse=True)
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the module in all processes: what one test has bundled, the next finds."""
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def unpack(stack: Stack, tmp_path: Path) -> Callable[..., Path]:
    def unpacked(package: ZipPackage) -> Path:
        bundled = package.bundled(stack, name="Function", platform=LambdaPlatform.host())
        zipfile.ZipFile(bundled.zip_path).extractall(tmp_path / "task")
        return tmp_path / "task"

    return unpacked


def run(task: Path, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python that has nothing but the package and the standard library."""
    environment = {
        "PYTHONPATH": str(task),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LAMBDA_TASK_ROOT": str(task),
        "AWS_REGION": "eu-west-1",
        "MODEL_VERSION": "1",
        "WORK_BUCKET": "work",
        "ORT_DISABLE_TELEMETRY": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *arguments],
        env=environment,
        cwd=task.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def packages_of(task: Path) -> list[str]:
    def names() -> Iterator[str]:
        for path in task.iterdir():
            if (path / "__init__.py").is_file() and path.name != "inference_runtime":
                yield path.name
            elif path.suffix == ".py":
                yield path.stem

    return sorted(names())


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """The folder of a model that doubles."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", value[:1], value[1:])
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    (path.parent / "manifest.json").write_text("{}")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path.parent


@pytest.mark.slow
def test_everything_that_is_left_imports_and_works(unpack: Callable[..., Path], doubling: Path) -> None:
    task = unpack(
        ZipPackage(
            handler="none",
            runtime_requirements=(
                "preprocess-audio",
                "preprocess-image",
                "preprocess-text",
                "postprocess",
                "split-video",
            ),
            excluded_requirements=("huggingface-hub",),
            engine="python",
        )
    )
    roots = packages_of(task)
    assert {"PIL", "av", "aws_lambda_powertools", "numpy", "onnxruntime", "soundfile", "tokenizers"} <= set(roots)
    modules = [root for root in roots if root != "_soundfile_data"]  # a library, and no module
    found = json.loads(run(task, IMPORT_ALL, json.dumps(modules)).stdout.splitlines()[-1])
    assert found["missing"] == {}
    assert found["imported"] > 400
    done = run(task, USE, str(doubling / "model.onnx"))
    assert done.stdout == "1.31.1\n"
    assert done.stderr == ""  # ONNX Runtime warns of a library that it misses


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "machine"), [("arm64", 183), ("x86_64", 62)])
def test_c_api_is_one_library(
    stack: Stack, architecture: str, machine: int, record_property: Callable[[str, object], None]
) -> None:
    # Lambda's wheels, with this interpreter's bytecode.
    wheels = {"arm64": "aarch64", "x86_64": "x86_64"}[architecture] + "-manylinux_2_34"
    platform = LambdaPlatform(f"3.{sys.version_info.minor}", architecture, wheels=wheels)
    path = ZipPackage(handler="x", engine="c_api").bundled(stack, name="Inference", platform=platform).zip_path
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("inference_runtime/")]
        header = archive.read("onnxruntime/capi/libonnxruntime.so.1.31.1")[:20]
        unpacked = sum(entry.file_size for entry in archive.infolist())
        assert any(name.endswith(".pyc") for name in archive.namelist())
    assert names == [
        "onnxruntime-1.31.1.dist-info/METADATA",
        "onnxruntime-1.31.1.dist-info/WHEEL",
        "onnxruntime/LICENSE",
        "onnxruntime/ThirdPartyNotices.txt",
        "onnxruntime/capi/libonnxruntime.so.1.31.1",
    ]
    assert int.from_bytes(header[18:20], "little") == machine
    record_property(
        f"C-API package on {architecture}", f"{unpacked / 1e6:.1f} MB, {path.stat().st_size / 1e6:.1f} MB zipped"
    )
    assert unpacked * 4.5 < PIP_INSTALLED


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["c_api", "python"])
def test_handler_answers_with_nothing_but_its_package(
    unpack: Callable[..., Path], doubling: Path, engine: Engine
) -> None:
    if engine == "c_api" and sys.platform != "linux":
        pytest.skip("the shared library is that of Linux's wheels")
    task = unpack(ZipPackage(handler="x", engine=engine, sources={"model": doubling}))
    for source in (task / "inference_runtime").rglob("*.py"):
        source.write_text("raise ImportError('the source is read')\n")  # its bytecode is not

    def tensor(*values: float) -> dict[str, object]:
        data = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        return {"dtype": "float32", "shape": [1, len(values)], "data": data}

    event = {"groups": [{"indices": [0], "inputs": {"x": tensor(1, 2, 3)}}]}
    told = json.loads(run(task, HANDLE, json.dumps(event), INFERENCE_ENGINE=engine).stdout.splitlines()[-1])
    assert told == {
        "groups": [{"indices": [0], "outputs": {"y": tensor(2, 4, 6)}}],
        "numpy": engine == "python",
    }
    assert bool(list(task.glob("onnxruntime/capi/libonnxruntime.so.*"))) == (engine == "c_api")
