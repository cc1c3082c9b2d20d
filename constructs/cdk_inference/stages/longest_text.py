"""Checks while the app is synthesized that a model takes texts as long as its preprocessing makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.bundling.bundle import runtime_source
from cdk_inference.common.cache import cache_root, hash_data, hash_file, hash_folder
from cdk_inference.common.store import Store
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import BuiltModel, Project
    from cdk_inference.stages.preprocess import Preprocess

_MODULE = "cdk_inference.stages.running_tokens"
_MODE = f"{_MODULE}:run_longest"
_RESULT = "longest.json"
_RUNS_A_MODEL = ("numpy", "onnx", "onnxruntime")

_MOST_TOKENS = 2_048
"""Tokens that are tried at most. Tables of positions are shorter as a rule; more tokens may not fit into memory."""


def check_longest_text(model: ModelArtifact | BuiltModel, preprocess: Preprocess, project: Project | None) -> None:
    """Run a model once on as many tokens as it may get, prompt and answer together.

    Models with a table of positions fail on longer texts, which would become dead letters one by one. Nothing is run
    for other stages, for a model that is not built, and for one whose number of tokens is fixed. Neither is a model of
    the cache or of a registry on a machine that lacks what runs it. Large models are not run either, which may take
    minutes, and more memory than there is. They have rotations in place of tables.

    Parameters
    ----------
    model
        The model, as it is deployed.
    preprocess
        How objects become its inputs.
    project
        Its recipe with its surroundings; None for a model of a registry.

    Raises
    ------
    PropError
        The model takes fewer tokens than ``max_length``, or than that and its answer have.
    ModelBuildError
        The process that runs the model ends early.
    """
    if preprocess.tokens is None or model.path is None:
        return
    tokens = next((spec for spec in model.manifest.inputs if len(spec.shape) == 2), None)  # noqa: PLR2004 - (batch, tokens)
    if tokens is None or isinstance(tokens.shape[1], int) or (project is None and not _installed()):
        return
    if _is_large(model.path):
        return
    max_length, _ = preprocess.tokens
    steps = _steps(model.path)
    # The last token of an answer is not read.
    wanted = min(max_length + max(steps - 1, 0), _MOST_TOKENS)
    asked = {"wanted": wanted}
    found = _found(model, project, model.path, asked) if project else _found_alone(model, model.path, asked)
    if found is None or (most := found["most"]) >= wanted:
        return
    name = model.manifest.name
    if steps:
        raise PropError(
            f"max_length and max_steps must fit into the {most + 1:,} tokens that model '{name}' takes, got "
            f"{max_length:,} of the prompt and {steps:,} of the answer; lower one of them ({found['reason']})"
        )
    raise PropError(
        f"max_length must be at most {most:,}, the tokens that model '{name}' takes, got {max_length:,}; lower it "
        f"({found['reason']})"
    )


def _is_large(path: Path) -> bool:
    """Tell whether a model stays in its files while it is built."""
    from cdk_inference.model.files import weights  # noqa: PLC0415 - with ONNX it takes long to import

    return weights.is_large(weights.entry(path))


def _steps(path: Path) -> int:
    """Return the most tokens that a model appends to a prompt; 0 for one that writes none, or apart from the text."""
    from cdk_inference.model.files.packed import DRIVER  # noqa: PLC0415 - as above

    file = path / DRIVER
    description = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return int(description["max_steps"]) if "prompt" in description else 0


def _found(
    model: ModelArtifact | BuiltModel, project: Project, path: Path, asked: dict[str, int]
) -> dict[str, Any] | None:
    """Return the most tokens that the model takes, and its words about more, from the cache if they are known.

    None if they are not, and packages that a build needs are missing.
    """
    from cdk_inference.model.files import weights  # noqa: PLC0415 - as above
    from cdk_inference.model.measurement import is_measured, measure_once  # noqa: PLC0415 - as above

    key = _key(model, project.tools, asked)
    if project.missing and not is_measured(project, key):
        return None
    more = {**asked, "model": str(weights.entry(path))}
    result: dict[str, Any] = measure_once(project, key, more, mode=_MODE, result=_RESULT)
    return result


def _found_alone(model: ModelArtifact | BuiltModel, path: Path, asked: dict[str, int]) -> dict[str, Any] | None:
    """Return the same for a model without a recipe. None if it does not run here, for whatever reason."""
    from cdk_inference.model.files import weights  # noqa: PLC0415 - as above

    request = json.dumps({**asked, "model": str(weights.entry(path))})

    def make(folder: Path) -> None:
        command = [sys.executable, "-P", "-m", _MODULE, str(folder)]
        subprocess.run(command, input=request, text=True, capture_output=True, check=True)  # noqa: S603 - our own module

    try:
        entry = Store(cache_root() / "passes").make(_key(model, _installed(), asked), make)
    except subprocess.CalledProcessError:
        return None
    result: dict[str, Any] = json.loads((entry / _RESULT).read_text("utf-8"))
    return result


def _installed() -> dict[str, str]:
    """Return the versions of what runs a model; nothing if a part is missing."""
    try:
        return {name: version(name) for name in _RUNS_A_MODEL}
    except PackageNotFoundError:
        return {}


def _key(model: ModelArtifact | BuiltModel, tools: dict[str, str], asked: dict[str, int]) -> str:
    engine = [hash_folder(runtime_source() / name) for name in ("engine", "tensors")]
    running = hash_file(Path(__file__).with_name("running_tokens.py"))
    depends = [tools, engine, running, model.asset_hash, asked]
    return f"tokens-{model.manifest.name}-{hash_data(depends)[:32]}"
