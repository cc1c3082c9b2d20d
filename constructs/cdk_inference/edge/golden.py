"""A golden example of a built model: what it answers to made-up inputs, by which a device tests itself.

The model runs in another process, so that a synth does not load it: ``python -m cdk_inference.edge.golden``.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import cache_root
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.project import BuiltModel
    from cdk_inference.model.recipe.tensors import TensorSpec

TOLERANCE = 0.04
"""How far a device's output may be from the example, as a share of the largest value in that."""

_FORMAT = 3
_STEPS = 64  # of an output's largest value, rounded up to a power of two
_FREE = 1  # the size of a free axis, such as the batch
_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_SECONDS = 300


def golden_example(built: BuiltModel) -> dict[str, Any] | None:
    """Return inputs and outputs of a model, as JSON; it is made once for each model.

    Parameters
    ----------
    built
        The model.

    Returns
    -------
    dict or None
        ``inputs`` and ``outputs``, each with ``dtype``, ``shape`` and base64 of little-endian ``data`` by name, and the
        ``tolerance``. None if this machine cannot tell what a device would answer. Then ONNX Runtime is
        not installed, its CPU rounds otherwise, or the model does not take made-up inputs.

    Raises
    ------
    ModelBuildError
        The process that runs the model was ended, or took too long.
    """
    host = _MACHINES.get(platform.machine())
    if host not in built.manifest.exact_on or importlib.util.find_spec("onnxruntime") is None:
        return None
    kept = cache_root() / "golden" / f"{built.asset_hash}-{_FORMAT}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    example = _made(built)
    if example is not None:  # what failed may not fail again
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(example))
    return example


def _made(built: BuiltModel) -> dict[str, Any] | None:
    """Return the example; None if the model does not take made-up inputs.

    Raises
    ------
    ModelBuildError
        The process was ended, or took too long: the next one may not be.
    """
    specs = [_described(spec) for spec in built.manifest.inputs]
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
                input=json.dumps(specs),
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


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": [n if isinstance(n, int) else _FREE for n in spec.shape]}


def main() -> None:
    """Read the inputs' descriptions, and write the example."""
    import numpy as np  # noqa: PLC0415 - not in the process of a synth

    from inference_runtime.engine.engine import LocalEngine  # noqa: PLC0415
    from inference_runtime.tensors.tensor import Tensor, arrays_of  # noqa: PLC0415

    def made(dtype: str, shape: Sequence[int]) -> Any:  # noqa: ANN401 - an array of any type
        steps = (7 * np.arange(np.prod(shape), dtype=np.int64) + 3) % 251
        kind = np.dtype(dtype)
        if kind.kind == "f":
            return (steps / 251).astype(kind).reshape(shape)
        # Larger numbers may be tokens, of which nobody knows how many there are.
        return (steps if kind == np.uint8 else np.ones_like(steps)).astype(kind).reshape(shape)

    def coarse(array: Any) -> Any:  # noqa: ANN401 - an array of any type
        """Round so much that all machines, whose CPUs round a little differently, make the same package."""
        finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else array[:0]
        if not finite.any():
            return array
        step = 2.0 ** np.ceil(np.log2(float(finite.max()))) / _STEPS
        return (np.round(array / step) * step).astype(array.dtype)

    def written(array: Any) -> dict[str, Any]:  # noqa: ANN401 - an array of any type
        little = array.astype(array.dtype.newbyteorder("<"))
        data = base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()
        return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}

    inputs = {each["name"]: made(each["dtype"], each["shape"]) for each in json.load(sys.stdin)}
    outputs = arrays_of(LocalEngine().infer({name: Tensor.of(array) for name, array in inputs.items()}))
    numbers = {name: array for name, array in outputs.items() if array.dtype.kind in "fiub"}
    example = {
        "inputs": {name: written(array) for name, array in inputs.items()},
        "outputs": {name: written(coarse(array)) for name, array in numbers.items()},
        "tolerance": TOLERANCE,
    }
    sys.stdout.write(json.dumps(example))


if __name__ == "__main__":
    main()
