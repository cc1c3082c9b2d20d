"""The container image of a GPU: what it is built from, without building it, which needs Docker."""

from __future__ import annotations

import base64
import json
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import uv
from aws_cdk import App, Stack
from aws_cdk import aws_lambda as lambda_
from onnx import TensorProto, helper
from packaging.requirements import Requirement

from cdk_inference import LambdaPlatform
from cdk_inference.bundling.bundle import lambda_source
from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.bundling.wheels import Requirements
from cdk_inference.gpu.image import ImagePackage, gpu_image

DOCKERFILE = lambda_source() / "gpu" / "Dockerfile"
REQUIREMENTS = [lambda_source() / "requirements" / f"{name}.txt" for name in ("inference-gpu-cuda", "inference-gpu")]

# Runs with what the image has but CUDA, as the function does.
PROGRAM = """
import json, sys
import onnxruntime
from inference_runtime.handlers import infer
print(json.dumps({
    "available": onnxruntime.get_available_providers(),
    "answer": infer.handler(json.loads(sys.argv[1]), None),
}))
"""


def tensor(values: list[float]) -> dict[str, object]:
    return {
        "dtype": "float32",
        "shape": [1, len(values)],
        "data": base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode(),
    }


@pytest.fixture
def model(tmp_path: Path) -> SimpleNamespace:
    """A model that doubles."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensor = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", tensor, ["batch", 3])],
        [helper.make_tensor_value_info("y", tensor, ["batch", 3])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx"
    )
    (folder / "manifest.json").write_text("{}")
    return SimpleNamespace(path=folder)


def staged(model: SimpleNamespace, folder: Path) -> tuple[str, Path]:
    """Return the hash of the image and the folder in the cloud assembly that it is built from."""
    app = App(outdir=str(folder))
    stack = Stack(app, "Stack")
    image = gpu_image(stack, "Image", model=model, target="lambda")
    app.synth()
    (asset,) = json.loads((folder / "Stack.assets.json").read_text())["dockerImages"].values()
    assert asset["source"]["dockerBuildTarget"] == "lambda"
    assert asset["source"]["platform"] == "linux/amd64"
    return image.asset_hash, folder / asset["source"]["directory"]


def test_hadolint_has_no_finding() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_version_and_digest() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert [name for _, name in stages] == ["runtime", "sagemaker", "lambda"]
    base = stages[0][0]
    assert re.fullmatch(r"public\.ecr\.aws/lambda/python:3\.\d+\.\d{4}(\.\d\d){3}@sha256:[0-9a-f]{64}", base)
    assert {source for source, _ in stages[1:]} == {"runtime"}


def test_pip_takes_only_files_that_have_a_pinned_hash() -> None:
    installs = re.findall(r"^RUN python -m pip install .*$", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(installs) == len(REQUIREMENTS)
    assert all("--require-hashes" in line for line in installs)


def test_python_is_the_default_of_the_other_functions() -> None:
    assert f"lambda/python:{LambdaPlatform().python}." in DOCKERFILE.read_text()


def test_everything_that_is_copied_is_there(model: SimpleNamespace, tmp_path: Path) -> None:
    _, context = staged(model, tmp_path / "cdk.out")
    for source in re.findall(r"^COPY (\S+) ", DOCKERFILE.read_text(), re.MULTILINE):
        assert (context / source).exists(), source
    assert sorted(path.name for path in context.iterdir()) == [
        "Dockerfile",
        "inference_runtime",
        "model",
        "requirements",
    ]
    assert (context / "model" / "model.onnx").read_bytes() == (model.path / "model.onnx").read_bytes()
    assert not list(context.rglob("*.pyc"))


def test_the_settings_of_explanations_are_copied_to_where_the_runtime_reads_them(
    model: SimpleNamespace, tmp_path: Path
) -> None:
    app = App(outdir=str(tmp_path / "cdk.out"))
    stack = Stack(app, "Stack")
    written = {"explanation.json": b"{}", "explanation_tokens.json": b"[]"}
    package: Any = ImagePackage(model, SimpleNamespace(files=written))
    code = package.resolve(stack, name="f", platform=None).code
    lambda_.Function(stack, "F", code=code, handler=lambda_.Handler.FROM_IMAGE, runtime=lambda_.Runtime.FROM_IMAGE)
    app.synth()
    (found,) = (path.parent for path in (tmp_path / "cdk.out").glob("asset.*/Dockerfile"))
    (pattern,) = re.findall(r"^COPY Dockerfile (\S+) \./$", DOCKERFILE.read_text(), re.MULTILINE)
    assert {path.name: path.read_bytes() for path in found.glob(pattern)} == written


def test_the_hash_depends_on_content_alone(
    model: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = staged(model, tmp_path / "one")
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "another cache"))
    for path in model.path.iterdir():
        path.chmod(0o600)
        os.utime(path, (1, 1))
    mask = os.umask(0o077)
    try:
        second, context = staged(model, tmp_path / "two")
    finally:
        os.umask(mask)
    assert second == first
    assert {oct(p.stat().st_mode & 0o777) for p in context.rglob("*") if p.is_file()} == {"0o644"}
    (model.path / "manifest.json").write_text('{"measured": 1}')
    assert staged(model, tmp_path / "three")[0] == first
    (model.path / "model.onnx").write_bytes(b"another")
    assert staged(model, tmp_path / "four")[0] != first


def test_a_stack_that_is_not_bundled_stages_nothing(tmp_path: Path) -> None:
    app = App(outdir=str(tmp_path / "cdk.out"), context={"aws:cdk:bundling-stacks": []})
    gpu_image(Stack(app, "Stack"), "Image", model=SimpleNamespace(path=None), target="lambda")
    app.synth()
    (dockerfile,) = (tmp_path / "cdk.out").glob("asset.*/Dockerfile")
    assert dockerfile.read_text().startswith("FROM scratch")


def pins() -> dict[str, str]:
    return {
        requirement.name: str(requirement.specifier)
        for file in REQUIREMENTS
        for requirement in map(Requirement, Requirements(file).named)
    }


@pytest.mark.slow
def test_the_pins_are_what_onnxruntime_asks_for(tmp_path: Path) -> None:
    """Resolved with nothing but the indexes' metadata: the libraries of CUDA are more than 2 GB."""
    pinned = pins()
    wanted = tmp_path / "wanted.in"
    wanted.write_text(f"onnxruntime-gpu[cuda,cudnn]{pinned['onnxruntime-gpu']}\n")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}{specifier}\n" for name, specifier in pinned.items()))
    done = subprocess.run(
        [
            *(uv.find_uv_bin(), "pip", "compile", wanted, "--constraint", constraints),
            *("--no-config", "--no-header", "--no-annotate", "--quiet"),
            *("--only-binary", ":all:", "--no-python-downloads"),
            *("--python-version", LambdaPlatform().python, "--python-platform", "x86_64-manylinux_2_34"),
        ],
        env=uv_environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resolved = {requirement.name: str(requirement.specifier) for requirement in map(Requirement, done.stdout.split())}
    assert resolved == pinned


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the image is x86_64")
def test_its_python_runs_here_without_cuda(model: SimpleNamespace, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    Requirements([REQUIREMENTS[1]]).install(layer, LambdaPlatform.host(), name="the image")
    _, context = staged(model, tmp_path / "cdk.out")
    event = {"groups": [{"indices": [0], "inputs": {"x": tensor([1, 2, 3])}}]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, json.dumps(event)],
        cwd=context,
        env={
            "PYTHONPATH": f"{layer}:{context}",
            "PATH": os.environ["PATH"],
            "LAMBDA_TASK_ROOT": str(context),
            "MODEL_VERSION": "1",
            "WORK_BUCKET": "work",
            "AWS_DEFAULT_REGION": "us-east-1",
            "ACCELERATOR": "cuda",
            "ACCELERATOR_MEMORY_GIB": "24",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "CUDAExecutionProvider" in told["available"]
    assert told["answer"]["inference"] == "cpu"
    assert told["answer"]["groups"] == [{"indices": [0], "outputs": {"y": tensor([2, 4, 6])}}]
    assert "the model runs on the CPU" in done.stderr
