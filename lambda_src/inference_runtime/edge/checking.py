"""The self-test of a version on the device: its model must answer as it did when it was built.

`check` of ``edge.json`` has up to three members. `inputs` and `outputs` are tensors by name, as ``{"dtype", "shape",
"data"}`` with the elements in base64. `item` is ``{"key", "data", "prediction"}``, the bytes of an item in base64 and
what the stages and the model make of it. `tolerance` is the share of an output's largest value that the answer of
another CPU may be off, 0.02 by default.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import StageError
from inference_runtime.lifecycle import WARMING, WARMING_KEY
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from inference_runtime.edge.package import Package

TOLERANCE = 0.02
"""Share of the largest value that an output may be off."""

_log = logging.getLogger(__name__)


def check(package: Package) -> None:
    """Run a version's own example.

    Parameters
    ----------
    package
        The version; its variables are in the environment.

    Raises
    ------
    StageError
        If the answer is not what it should be.
    Exception
        Any error of opening the model.
    """
    from inference_runtime.handlers import fused  # noqa: PLC0415 - its import opens the model

    fused.handler({WARMING_KEY: WARMING}, None)
    example = package.check or {}
    try:
        tolerance = float(example.get("tolerance", TOLERANCE))
        if "inputs" in example:
            _check_outputs(fused.engine.infer(_tensors(example["inputs"])), _tensors(example["outputs"]), tolerance)
        if "item" in example:
            _check_item(fused.handler, example["item"], tolerance)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StageError(f"check of edge.json is malformed: {type(error).__name__}: {error}") from error
    _log.info("checked: %s %s", package.name, package.version)


def _tensors(told: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: Tensor.decoded(value["dtype"], value["shape"], base64.b64decode(value["data"], validate=True))
        for name, value in told.items()
    }


def _check_outputs(outputs: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in expected.items():
        if (found := outputs.get(name)) is None:
            raise StageError(f"the model must have the output {name!r}, got {', '.join(outputs)}")
        if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            raise StageError(f"output {name!r} must be {tensor}, got {found}")
        values, wanted = found.values(), tensor.values()
        if isinstance(tensor.data, list):
            if values != wanted:
                raise StageError(f"output {name!r} must have the strings of the build")
            continue
        most = tolerance * max([abs(value) for value in wanted if math.isfinite(value)], default=0.0)
        off = [
            abs(value - other)
            for value, other in zip(values, wanted, strict=True)
            if value != other and not (math.isnan(value) and math.isnan(other))
        ]
        if off and not max(off) <= most:  # NaN is not
            raise StageError(f"output {name!r} must be within {most:.3g} of the build's, got {max(off):.3g}")


def _check_item(handler: Any, example: dict[str, Any], tolerance: float) -> None:  # noqa: ANN401 - the handler
    item = {"bucket": "edge:check", "id": example["key"], "sequence": "0", "time": "0", "encoding": "base64"}
    message = {"message_id": "check", "item": item, "body": example["data"]}
    done = handler({"messages": [message], "answers": "only"}, None)
    for failure in done["failures"]:
        raise StageError(f"the example must be scored, got {failure['error']}: {failure['cause']}")
    (answer,) = done["answers"]
    if answer["status"] != "SUCCEEDED":
        raise StageError(f"the example must be scored, got {answer['status']}: {answer['reason']}")
    if not _alike(answer["prediction"], example["prediction"], tolerance):
        shown = [json.dumps(value)[:200] for value in (example["prediction"], answer["prediction"])]
        raise StageError(f"the example's prediction must be {shown[0]}, got {shown[1]}")


def _alike(found: object, wanted: object, tolerance: float) -> bool:
    """Return whether two JSON values are the same but for rounding."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found.keys() == wanted.keys() and all(_alike(found[name], wanted[name], tolerance) for name in wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(lambda one, other: _alike(one, other, tolerance), found, wanted))
    numbers = [value for value in (found, wanted) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:  # noqa: PLR2004 - both
        return math.isclose(*numbers, rel_tol=tolerance, abs_tol=tolerance)
    return found == wanted
