"""The packages of devices: their size, and that they run where nothing else is, on both architectures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aws_cdk import App, Stack
from verify.debian import UnavailableError

from cdk_inference import EdgeInput, InferencePipeline, ModelArtifact, Postprocess, Preprocess, Route
from cdk_inference.common.platform import CONTEXT_KEY, LambdaPlatform
from verify import emulators

if TYPE_CHECKING:
    from cdk_inference import EdgeComponent

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "model_assets" / "digits_cnn"
HOST = LambdaPlatform.host()
MOST = 60e6  # bytes without the model
STAGES = """
import json
import numpy as np

def preprocess(data, item):
    return np.array(json.loads(data), np.uint8)
"""
APP = f"""
from aws_cdk import App, Stack
from cdk_inference import EdgeInput, InferencePipeline, ModelArtifact, Postprocess, Preprocess, Route

app = App()
stack = Stack(app, "Digits")
model = ModelArtifact(stack, "Model", recipe={str(DIGITS / "recipe.py")!r})
preprocess = Preprocess.function("stages.py:preprocess")
postprocess = Postprocess.classification(labels={str(DIGITS / "labels.txt")!r})
pipeline = InferencePipeline(stack, "Pipeline", model=model, preprocess=preprocess, postprocess=postprocess)
small = Route("small", model=model, preprocess=preprocess)
pipeline.add_edge(route=small, inputs=[EdgeInput.folder("/in")], threshold=0.9)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("app")
    (found / "app.py").write_text(APP)
    (found / "stages.py").write_text(STAGES)
    (found / "cdk.json").write_text(json.dumps({"context": {CONTEXT_KEY: str(HOST)}}))
    return found


def made(folder: Path, **props: Any) -> EdgeComponent:
    stack = Stack(App(context={"aws:cdk:bundling-stacks": []}), "Digits")
    model = ModelArtifact(stack, "Model", recipe=DIGITS / "recipe.py")
    preprocess = Preprocess.function(folder / "stages.py:preprocess")
    postprocess = Postprocess.classification(labels=DIGITS / "labels.txt")
    pipeline = InferencePipeline(stack, "Pipeline", model=model, preprocess=preprocess, postprocess=postprocess)
    given: dict[str, Any] = {"threshold": 0.9, "python": emulators.PYTHON, **props}
    return pipeline.add_edge(
        route=Route("small", model=model, preprocess=preprocess), inputs=[EdgeInput.folder("/in")], **given
    )


@pytest.fixture(scope="module")
def packages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    edge, dist = made(folder), tmp_path_factory.mktemp("dist")
    return {name: edge.write_installation(dist / name, name)[0] for name in ("arm64", "x86_64")}


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_a_package_is_small(packages: dict[str, Path], architecture: str) -> None:
    sizes: Counter[str] = Counter()
    with zipfile.ZipFile(packages[architecture]) as archive:
        names = {entry.filename for entry in archive.infolist()}
        for entry in archive.infolist():
            if not entry.filename.startswith("model/"):
                sizes["packed"] += entry.compress_size
                sizes["unpacked"] += entry.file_size
    assert sizes["packed"] < 28e6 < MOST
    # Half of it is OpenBLAS of numpy and ONNX Runtime, each in one library.
    assert sizes["unpacked"] < 82e6
    tops = {name.partition("/")[0] for name in names}
    assert {"edge.json", "inference_runtime", "model", "numpy", "onnxruntime", "paho", "stages.py"} <= tops
    assert not [name for name in names if "__pycache__" in name], "each machine makes the same package"
    assert not tops & {"obstore", "psycopg", "starlette", "uvicorn", "boto3", "botocore"}, "a device is no server"


def test_the_description_is_that_of_the_route(packages: dict[str, Path]) -> None:
    with zipfile.ZipFile(packages["arm64"]) as archive:
        found = json.loads(archive.read("edge.json"))
    assert (found["format"], found["name"], found["threshold"]) == (1, "Digits.Pipeline.Edge", 0.9)
    assert packages["arm64"].name == f"Digits.Pipeline.Edge-{found['version']}-arm64.zip"
    assert found["row_version"] is None
    variables = found["variables"]
    assert variables["CONFIDENCE"] == "1"
    assert variables["INFERENCE_ENGINE"] == "c_api"
    assert all(isinstance(value, str) for value in variables.values())
    assert not {"INBOX_BUCKET", "RESULTS_TABLE", "AWS_REGION"} & set(variables), "a package is for every stack"
    if found["check"] is not None:  # if this machine's CPU computes as a device's
        (output,) = found["check"]["outputs"].values()
        assert output["shape"] == [1, 10]


def test_a_package_for_arm64_passes_its_own_check_there(packages: dict[str, Path], tmp_path: Path) -> None:
    try:
        python = emulators.python()
    except UnavailableError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(packages["arm64"]) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [*python, "-m", "inference_runtime.edge", "check"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "PYTHONNOUSERSITE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_script_installs_a_package_and_its_units(folder: Path, tmp_path: Path) -> None:
    """With folders of this test, and with programs that only say what they were told to do."""
    paths = os.pathsep.join([str(ROOT / "constructs"), str(ROOT / "lambda_src")])
    command = [sys.executable, "-m", "cdk_inference.anywhere", "device", "app.py"]
    command += ["--architecture", HOST.architecture, "--output", str(tmp_path / "dist")]
    written = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert written.returncode == 0, written.stderr
    assert len(written.stdout.splitlines()) == 6
    said = tmp_path / "said"
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {
        "id": '[ "$1" = "-u" ] && echo 0',
        "useradd": f'echo "useradd $*" >> {said}',
        "systemctl": f'echo "systemctl $*" >> {said}',
        "install": 'while [ $# -gt 2 ]; do shift; done; cp "$1" "$2"',
        f"python{HOST.python}": f'exec {Path(sys.base_prefix) / "bin" / "python3"} -s "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    script = tmp_path / "dist" / "install.sh"
    root, settings, units = (tmp_path / name for name in ("opt", "etc", "units"))
    units.mkdir()
    text = script.read_text().replace("/opt/cdk-inference-edge", str(root))
    text = text.replace("/etc/cdk-inference-edge", str(settings)).replace("/etc/systemd/system", str(units))
    (tmp_path / "json.py").write_text("raise SystemExit('a module of somebody else')")
    script.write_text(text)

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{programs}:/usr/bin:/bin"}
        return subprocess.run(
            ["sh", str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert f"fill in {settings}/edge.env" in done.stdout
    version = (root / "current").resolve()
    assert json.loads((version / "edge.json").read_text())["name"] == "Digits.Pipeline.Edge"
    assert len([path for path in units.iterdir() if path.is_file()]) == 3
    folders = units / "cdk-inference-edge.service.d" / "folders.conf"
    assert folders.read_text() == '[Service]\nReadWritePaths="-/in"\n'
    assert "enable" not in said.read_text(), "without a name, the agent could not start"
    filled = (settings / "edge.env").read_text().replace("DEVICE=", "DEVICE=camera-1", 1)
    (settings / "edge.env").write_text(filled)
    assert run().returncode == 0
    assert (settings / "edge.env").read_text() == filled, "settings of a device are not overwritten"
    assert "systemctl restart cdk-inference-edge.service" in said.read_text()
    (package,) = (tmp_path / "dist").glob("*.zip")
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    (root / "current").unlink()
    text = script.read_text()
    script.write_text(text.replace("sha256=", "sha256=0"))
    assert run().returncode != 0
    assert not (root / "current").exists(), "nothing is used of a package that is another one"


def test_another_component_or_architecture_fails(folder: Path, tmp_path: Path) -> None:
    edge = made(folder, architectures=["arm64"])
    with pytest.raises(Exception, match="architecture must be 'arm64', got 'x86_64'"):
        edge.write_installation(tmp_path, "x86_64")
