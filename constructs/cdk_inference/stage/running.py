"""Runs what the arguments of the command line ask for."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError
from cdk_inference.stage import report
from cdk_inference.stage.apps import pipeline_of
from cdk_inference.stage.arrays import UNNAMED, read_arrays
from cdk_inference.stage.choice import chosen
from cdk_inference.testing import InProcessPipeline, LocalModel, run_postprocess, run_preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.targets import Architecture
    from cdk_inference.stage.choice import Kind
    from inference_runtime.tensors.tensor import Array

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of the command line; see its help."""

    stage: str
    source: str
    options: Sequence[str]
    kind: Kind
    key: str | None
    bucket: str
    keep: Sequence[str]
    kept: str | None
    model: Path | None
    architecture: Architecture
    postprocess: str | None
    postprocess_options: Sequence[str]
    timeout: float


def run(arguments: Arguments) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is to be said of a run, and the arrays that it made.

    Raises
    ------
    Exception
        Whatever the stage raises, but `RejectItem`.
    InferenceError
        The stage, the object or the model is not there, or they do not fit.
    """
    stage: Any = chosen(arguments.stage, arguments.options, arguments.kind)
    model = None if arguments.model is None else LocalModel.of(arguments.model, architecture=arguments.architecture)
    source, timeout, keep = arguments.source, arguments.timeout, arguments.keep
    item: dict[str, Any] = {"key": _key(source, arguments.key), "bucket": arguments.bucket}
    if arguments.kind == "postprocess":
        kept = _kept(arguments.kept)
        outputs = read_arrays(_read(source), source, UNNAMED if model is None else model.outputs[0].name)
        row = run_postprocess(stage, outputs, model=model, kept=kept, timeout=timeout, **item)
        return report.of_postprocess(row), {}
    if arguments.postprocess is None:
        found = run_preprocess(stage, _read(source), model=model, keep=keep, timeout=timeout, **item)
        return report.of_preprocess(found), found.inputs
    if model is None:
        raise PropError("model must be given with postprocess, which gets its outputs, got none; add --model")
    after: Any = chosen(arguments.postprocess, arguments.postprocess_options, "postprocess")
    pipeline = InProcessPipeline(model=model, preprocess=stage, postprocess=after, keep=keep, timeout=timeout)
    scored = pipeline.run(_read(source), **item)
    return report.of_pipeline(scored), scored.outputs


def run_app(
    app: Path, source: str, pipeline: str | None, route: str | None, *, key: str | None, bucket: str, explain: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is to be said of a run of an app's pipeline, and the outputs of its model; see `run`."""
    data = _read(source)
    local = InProcessPipeline.of(pipeline_of(app, pipeline), route)
    scored = local.run(data, key=_key(source, key), bucket=bucket, explain=explain)
    return report.of_pipeline(scored), scored.outputs


def _key(source: str, key: str | None) -> str:
    if key is not None:
        return key
    return "stdin" if source == STDIN else Path(source).name


def _read(source: str) -> bytes:
    if source == STDIN:
        return sys.stdin.buffer.read()
    path = Path(source)
    if not path.is_file():
        raise PropError(f"input must be an existing file or -, got '{path}'; looked in {Path.cwd()}")
    return path.read_bytes()


def _kept(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text if text is not None else "{}")
    except ValueError as error:
        raise PropError(f"kept must be a JSON object, got {text!r}: {error}") from None
    if not isinstance(found, dict):
        raise PropError(f"kept must be a JSON object, got {text!r}")
    return found
