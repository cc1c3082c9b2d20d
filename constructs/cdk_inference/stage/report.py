"""Shows a run, as lines for a person or as one JSON object."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import InferenceError
from cdk_inference.stage.arrays import facts
from cdk_inference.testing.errors import StageFailedError
from cdk_inference.testing.tracebacks import has_user_frames, user_traceback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.client import Result
    from cdk_inference.testing.pipeline import PipelineRun
    from cdk_inference.testing.preprocessing import Preprocessed

READY = "READY"
"""Status of an object that the model can score."""

_PARTS = frozenset(("grid", "tokens", "values"))
_SHADES = "·░▒▓█"  # of a cell, by its weight; as wide as high if there are two


def of_preprocess(found: Preprocessed) -> dict[str, Any]:
    """Return what is to be said of a preprocessed object."""
    return {
        "status": READY if found.reason is None else "REJECTED",
        "reason": found.reason,
        "inputs": {name: facts(array) for name, array in found.inputs.items()},
        "kept": found.kept,
        "seconds": found.seconds,
    }


def of_postprocess(result: Result) -> dict[str, Any]:
    """Return what is to be said of a row."""
    return {"status": result.status, "reason": result.reason, "row": result.row}


def of_pipeline(run: PipelineRun) -> dict[str, Any]:
    """Return what is to be said of an object that was scored."""
    return {
        **of_preprocess(run.preprocessed),
        "outputs": {name: facts(array) for name, array in run.outputs.items()},
        **of_postprocess(run.result),
    }


def of_error(error: Exception) -> dict[str, Any]:
    """Return what is to be said of a stage that failed; our own errors need no traceback, unless user code is in it."""
    name = error.error if isinstance(error, StageFailedError) else type(error).__name__
    # The runtime says why it cannot load a stage, and the cause of that is what user code raised.
    cause = error.__cause__.__cause__ if error.__cause__ is not None else None
    raised = cause if isinstance(error, StageFailedError) and cause is not None else error
    shown = has_user_frames(raised) or not isinstance(error, InferenceError)
    return {
        "status": "ERROR",
        "error": name,
        "reason": str(error),
        "traceback": user_traceback(raised) if shown else "",
    }


def as_json(said: Mapping[str, Any]) -> str:
    """Return one line of JSON; bytes are in base64."""
    return json.dumps(said, default=_encoded, allow_nan=False)


def lines(said: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for a person."""
    status = said["status"] if said["reason"] is None else f"{said['status']}: {said['reason']}"
    yield status if "seconds" not in said else f"{status} (preprocessing took {said['seconds']:.3g} s)"
    for title in ("inputs", "outputs"):
        for name, array in said.get(title, {}).items():
            yield f"{title[:-1]:10} {name}: {_array(array)}"
    if said.get("kept"):
        yield f"{'kept':10} {as_json(said['kept'])}"
    if row := said.get("row"):
        shown = {name: value for name, value in row.items() if name not in {"status", "reason", "kept", "explanation"}}
        for name in sorted(shown, key=lambda name: name != "prediction"):
            yield f"{'row':10} {name}: {as_json(shown[name])}"
        for line in _explanation(row.get("explanation")):
            yield f"{'explained':10} {line}"


def _explanation(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the lines of an explanation: the facts, and then each part with its weight, or the grid as shades."""
    if found is None:
        return
    facts = {name: value for name, value in found.items() if name not in _PARTS}
    yield ", ".join(f"{name} {value if isinstance(value, str) else as_json(value)}" for name, value in facts.items())
    for row in found.get("grid", ()):
        yield "".join(_SHADES[round(weight * (len(_SHADES) - 1))] * 2 for weight in row)
    for token in found.get("tokens", ()):
        yield f"{token['weight']:+9.4f} {as_json(token['token'])}"
    for name, weight in found.get("values", {}).items():
        yield f"{weight:+9.4f} {name}"


def _array(array: Mapping[str, Any]) -> str:
    text = f"{array['dtype']} {array['shape']}"
    if "min" in array:
        text += f", {array['min']:.6g} to {array['max']:.6g}, mean {array['mean']:.6g}"
    return text if "not_finite" not in array else f"{text}, {array['not_finite']:,} NaN or infinite"


def _encoded(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is not JSON")
