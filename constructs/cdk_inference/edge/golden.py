"""A golden example of a built model: what it answers to made-up inputs, by which a device tests itself.

The answer is kept next to the recipe, as locks are. CPUs round differently, and all machines shall make the same
package. The model runs in another process, so that a synth does not load it: ``python -m cdk_inference.edge.golden``.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import math
import os
import platform
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.terminal import say
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.project import FROZEN

if TYPE_CHECKING:
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.model.recipe.tensors import TensorSpec

TOLERANCE = 0.02
"""How far a device's output may be from the example, as a share of the largest value in that."""

_SCHEMA = 1
_FREE = 1  # the size of a free axis, such as the batch
_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_SECONDS = 300
_CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "bool": "?",
}
"""The formats of `struct`, by the types of tensors."""


def golden_example(model: ModelArtifact, built: BuiltModel) -> dict[str, Any] | None:
    """Return inputs and outputs of a model, as JSON.

    It is made once for each version of the model. Afterwards it is read from ``<name>.<target>.example.lock.json`` next
    to the recipe.

    Parameters
    ----------
    model
        The model.
    built
        The build of it for an architecture.

    Returns
    -------
    dict or None
        ``inputs`` and ``outputs``, each with ``dtype``, ``shape`` and base64 of little-endian ``data`` by name, and the
        ``tolerance``. None if there is no recipe, or if this machine cannot tell what a device would answer. Then ONNX
        Runtime is not installed, its CPU rounds otherwise, or the model does not take made-up inputs.

    Raises
    ------
    ModelBuildError
        The process that runs the model was ended, or took too long. Or locks are frozen, and the file does not fit.
    """
    folder = model.recipe_folder
    if folder is None:
        return None
    file = folder / f"{built.manifest.name}.{built.manifest.target}.example.lock.json"
    inputs = {spec.name: _made_up(spec) for spec in built.manifest.inputs}
    kept = _read(file)
    if kept is not None and kept.get("schema_version") == _SCHEMA and kept.get("model_version") == built.version:
        return {"inputs": inputs, "outputs": kept["outputs"], "tolerance": TOLERANCE}
    if model.frozen_lock or os.environ.get(FROZEN, "") not in ("", "0"):
        raise ModelBuildError(
            f"the frozen example {file} must be of version {built.version} of {built.manifest.name!r}, got "
            f"{'none' if kept is None else 'another'}; synthesize without a frozen lock, and commit the new example"
        )
    host = _MACHINES.get(platform.machine())
    if host not in built.manifest.exact_on or importlib.util.find_spec("onnxruntime") is None:
        return None
    outputs = None if None in inputs.values() else _answered(built, inputs)
    if outputs is None:
        return None
    facts = {"schema_version": _SCHEMA, "model_version": built.version, "outputs": outputs}
    write_whole(file, json.dumps(facts, indent=2, sort_keys=True) + "\n")
    say(f"example: {file.name} has what {built.manifest.name} answers, for the check of devices; commit it")
    return {"inputs": inputs, "outputs": outputs, "tolerance": TOLERANCE}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ModelBuildError(f"{file} must be JSON, got something else: {error}; delete it") from None
    if not isinstance(found, dict):
        raise ModelBuildError(f"{file} must be a JSON object, got {type(found).__name__}; delete it")
    return found


def _made_up(spec: TensorSpec) -> dict[str, Any] | None:
    """Return an input, the same on all machines; None if it does not have numbers."""
    code = _CODES.get(spec.dtype)
    if code is None:
        return None
    shape = [n if isinstance(n, int) else _FREE for n in spec.shape]
    steps = [(7 * number + 3) % 251 for number in range(math.prod(shape))]
    # Larger integers may be tokens, of which nobody knows how many there are.
    values = [step / 251 for step in steps] if code in "efd" else steps if code == "B" else [1] * len(steps)
    data = base64.b64encode(struct.pack(f"<{len(values)}{code}", *values)).decode()
    return {"dtype": spec.dtype, "shape": shape, "data": data}


def _answered(built: BuiltModel, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the outputs; None if the model does not take these inputs.

    Raises
    ------
    ModelBuildError
        The process was ended, or took too long: the next one may not be.
    """
    with tempfile.TemporaryDirectory(prefix="cdk-inference-golden-") as root:
        (Path(root) / "model").symlink_to(built.path.absolute())
        variables = {
            "LAMBDA_TASK_ROOT": root,
            "MODEL_DELIVERY": "package",
            "INFERENCE_ENGINE": "python",
            "ACCELERATOR": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter and a module of ours
                [sys.executable, "-m", __name__],
                input=json.dumps(inputs),
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelBuildError(f"{_what(built)} must end within {_SECONDS} seconds, got more; try again") from None
    if done.returncode < 0:
        raise ModelBuildError(f"{_what(built)} must end by itself, got signal {-done.returncode}; try again")
    return json.loads(done.stdout) if done.returncode == 0 else None


def _what(built: BuiltModel) -> str:
    return f"the example of {built.manifest.name!r} for devices"


def main() -> None:
    """Read inputs, and write what the model answers."""
    import numpy as np  # noqa: PLC0415 - not in the process of a synth

    from inference_runtime.engine.engine import LocalEngine  # noqa: PLC0415
    from inference_runtime.tensors.tensor import Tensor, arrays_of  # noqa: PLC0415

    def read(told: dict[str, Any]) -> Tensor:
        array = np.frombuffer(base64.b64decode(told["data"]), np.dtype(told["dtype"]).newbyteorder("<"))
        return Tensor.of(array.astype(told["dtype"]).reshape(told["shape"]))

    def written(array: Any) -> dict[str, Any]:  # noqa: ANN401 - an array of any type
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
        data = base64.b64encode(little.tobytes()).decode()
        return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}

    outputs = arrays_of(LocalEngine().infer({name: read(told) for name, told in json.load(sys.stdin).items()}))
    numbers = {name: written(array) for name, array in outputs.items() if array.dtype.kind in "fiub"}
    sys.stdout.write(json.dumps(numbers))


if __name__ == "__main__":
    main()
