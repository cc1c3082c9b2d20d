"""Prepares the contenders: our functions as they would be deployed, and their rivals without a library."""

from __future__ import annotations

import base64
import json
import os
import platform
import shutil
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uv

from benchmarks.harness import ROOT, environment, node_environment, run
from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.common.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENDERS = Path(__file__).parent / "contenders"
MODELS = {
    "minilm": ("all-MiniLM-L6-v2", ROOT / "model_assets" / "minilm" / "recipe.py"),
    "resnet18": ("ResNet-18", ROOT / "tests" / "constructs" / "model" / "recipes" / "resnet18" / "recipe.py"),
    "lite0": ("EfficientNet-Lite0", ROOT / "model_assets" / "efficientnet_lite" / "lite0.py"),
    "digits": ("CNN for digits", ROOT / "model_assets" / "digits_cnn" / "recipe.py"),
}
"""Names for people, and recipes."""

MEMORY = 1769
"""MiB of every function, ours and others': one vCPU."""

QUIET = {"PATH": "/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "1"}
"""The environment of every contender: ONNX Runtime's telemetry would cost the others a thread, and ours has it off."""

INFERENCE_HANDLER = "inference_runtime.handlers.infer.handler"


@dataclass(frozen=True)
class Function:
    """A function's package, unpacked.

    Attributes
    ----------
    handler
        ``module.function``.
    folders
        The folders on its path: its own, and those of its layers.
    variables
        The variables of its environment.
    """

    handler: str
    folders: tuple[Path, ...]
    variables: dict[str, str]

    @property
    def root(self) -> Path:
        """Its own folder."""
        return self.folders[0]

    def environment(self) -> dict[str, str]:
        """Return the environment that Lambda would give it, as far as it counts, and nothing of this process's."""
        return {
            "LANG": "en_US.UTF-8",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            **QUIET,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY),
            "LAMBDA_TASK_ROOT": str(self.root),
            **self.variables,
        }

    def command(self, event: Path) -> list[str]:
        """Return the command that starts it, and hands it an event."""
        script = str(CONTENDERS / "function.py")
        return [interpreter(), "-I", script, self.handler, str(event), *map(str, self.folders)]


@dataclass(frozen=True)
class Model:
    """A model as all contenders take it.

    Attributes
    ----------
    name
        For people.
    recipe
        Its recipe file.
    function
        Our function.
    exported
        Folder of what `export` wrote.
    """

    name: str
    recipe: Path
    function: Function
    exported: Path

    @property
    def event(self) -> Path:
        """The event for functions."""
        return self.exported / "event.json"

    @property
    def float32(self) -> Path:
        """The float32 graph."""
        return self.exported / "float32.onnx"

    @property
    def artifact(self) -> Path:
        """The folder of the model that our function has."""
        return self.function.root / "model"


def prepare(names: Iterable[str], work: Path) -> dict[str, Model]:
    """Make all that is needed for some of `MODELS`.

    Parameters
    ----------
    names
        Keys of `MODELS`.
    work
        Folder to work in.
    """
    chosen = list(names)
    functions = our_functions(tuple(MODELS[name][1] for name in chosen), work)
    return {
        name: Model(MODELS[name][0], MODELS[name][1], function, exported(MODELS[name][1], work))
        for name, function in zip(chosen, functions, strict=True)
    }


def build(names: Iterable[str], work: Path) -> None:
    """Build what `prepare` only lays out then, as for functions on this machine."""
    from cdk_inference.common.platform import LambdaPlatform  # noqa: PLC0415
    from cdk_inference.model import build_model  # noqa: PLC0415

    for name in names:
        recipe = MODELS[name][1]
        build_model(recipe, architecture=LambdaPlatform.host().architecture)
        exported(recipe, work)


@cache
def interpreter() -> str:
    """Return a Python with nothing installed: packages of this machine may run code at each start."""
    folder = cache_root() / "benchmarks" / f"python-{platform.python_version()}"
    if not (folder / "ready").is_file():
        # Not of this virtual environment, to which it would belong.
        base = getattr(sys, "_base_executable", sys.executable)
        run([base, "-m", "venv", "--clear", "--without-pip", folder], env=environment())
        (folder / "ready").touch()
    return str(folder / "bin" / "python")


@cache
def our_functions(recipes: tuple[Path, ...], work: Path) -> list[Function]:
    """Synthesize functions for these models and unpack them: Lambda does no more before it starts one."""
    from cdk_inference.common.platform import LambdaPlatform  # noqa: PLC0415

    context = json.loads((ROOT / "cdk.json").read_text("utf-8"))["context"]
    context["cdk-inference:platform"] = str(LambdaPlatform.host())
    assembly = work / "functions.out"
    variables = {
        "CDK_OUTDIR": str(assembly),
        "CDK_CONTEXT_JSON": json.dumps(context),
        "RECIPES": os.pathsep.join(map(str, recipes)),
    }
    app = Path(__file__).parent / "apps" / "functions.py"
    run([sys.executable, app], env=node_environment(**variables))
    return [_unpacked(assembly, f"Function{number}", work) for number in range(len(recipes))]


def _unpacked(assembly: Path, stack: str, work: Path) -> Function:
    resources: dict[str, dict[str, Any]] = json.loads((assembly / f"{stack}.template.json").read_text("utf-8"))[
        "Resources"
    ]
    (function,) = (
        resource["Properties"]
        for resource in resources.values()
        if resource["Type"] == "AWS::Lambda::Function" and resource["Properties"]["Handler"] == INFERENCE_HANDLER
    )
    layers = [resources[layer["Ref"]]["Properties"]["Content"]["S3Key"] for layer in function.get("Layers", ())]
    folders = [unzipped(assembly / f"asset.{function['Code']['S3Key']}", work)]
    folders += [unzipped(assembly / f"asset.{key}", work) / "python" for key in layers]
    found = function["Environment"]["Variables"]
    variables = {name: value if isinstance(value, str) else "unknown" for name, value in found.items()}
    return Function(function["Handler"], tuple(folders), variables)


def unzipped(archive: Path, work: Path) -> Path:
    """Return the folder with the content of an archive, modes included."""
    target = work / "unzipped" / archive.stem
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                path = Path(opened.extract(entry, partial))
                path.chmod(entry.external_attr >> 16 & 0o777 or 0o644)
                # Lambda unpacks with the dates of the zip, which time stamps in .pyc files would be held against.
                os.utime(path, (315_532_800, 315_532_800))
        partial.replace(target)
    return target


def exported(recipe: Path, work: Path) -> Path:
    """Return the folder with what stands next to our artifact; see `export`."""
    target = work / "exported" / f"{recipe.parent.name}-{recipe.stem}-{version('torch').partition('+')[0]}"
    if not (target / "event.json").is_file():
        run([sys.executable, Path(__file__).with_name("export.py"), recipe, target], env=environment())
    return target


def pip_installed(work: Path, *distributions: str) -> Path:
    """Return the folder that has distributions with all that they require, as pip installs and compiles them.

    uv does it in half the time.

    Versions are those that this virtual environment has, so that both sides run the same ONNX Runtime.
    """
    pins = [f"{name}=={version(name)}" for name in distributions]
    target = work / "pip" / "-".join(pins)
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        if others := distributions[:-1]:
            shutil.copytree(pip_installed(work, *others), partial)
        constraints = ROOT / "requirements" / "constraints.txt"
        command = [uv.find_uv_bin(), "pip", "install", "--python", sys.executable, "--compile-bytecode"]
        run([*command, "--target", partial, "--constraint", constraints, pins[-1]], env=uv_environment(environment()))
        partial.replace(target)
    return target


def straightforward(model: Model, work: Path) -> Function:
    """Return the function that one writes without a library, with our artifact of the same model in it."""
    target = work / "straightforward" / model.artifact.parent.name
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model.artifact, partial / "model")
        shutil.copy(CONTENDERS / "straightforward.py", partial / "lambda_function.py")
        run([interpreter(), "-m", "compileall", "-q", partial], env=environment())
        partial.replace(target)
    # boto3 is Lambda's own; with the rest it costs the same.
    return Function("lambda_function.handler", (target, pip_installed(work, "onnxruntime", "boto3")), {})


def engine_command(model: Model) -> list[str]:
    """Return the command of our function's engine."""
    return [interpreter(), "-I", *map(str, (CONTENDERS / "first.py", model.function.root)), *_inputs(model)]


def plain_command(model: Model, work: Path) -> list[str]:
    """Return the command of the plain `onnxruntime`, in float32."""
    packages = pip_installed(work, "onnxruntime")
    return [interpreter(), "-I", *map(str, (CONTENDERS / "plain.py", packages, model.float32)), *_inputs(model)]


def eager_command(model: Model) -> list[str]:
    """Return the command of PyTorch."""
    parts = (sysconfig.get_path("purelib"), model.recipe.parent, model.exported / "model.pt")
    return [interpreter(), "-I", *map(str, (CONTENDERS / "eager.py", *parts)), *_inputs(model)]


def _inputs(model: Model) -> list[str]:
    """Return the arguments that say what the model gets: its raw files, so that nobody reads JSON for them."""
    described: dict[str, dict[str, Any]] = json.loads((model.exported / "inputs.json").read_text("utf-8"))
    return [
        text
        for name, tensor in described.items()
        for text in (name, tensor["dtype"], ",".join(map(str, tensor["shape"])), tensor["file"])
    ]


def first_output(tensors: dict[str, dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Return the first output of a function's answer, flat."""
    tensor = next(iter(tensors.values()))
    return np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"]).astype(float)


@cache
def content_size(folder: Path, *, without: str = "") -> int:
    """Return the bytes of a folder's files, but those of one of its folders."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not (without and path.is_relative_to(folder / without))
    )
