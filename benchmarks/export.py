"""Write a recipe's model as one would who has no library for it: for PyTorch, and as float32 ONNX.

    python benchmarks/export.py RECIPE FOLDER

The folder gets ``model.pt``, ``float32.onnx``, ``inputs.json`` with the raw files that it names, and ``event.json``:
the first sample of the evaluation data.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from cdk_inference.model import PackageFile, TorchModule, load_recipe
from cdk_inference.model.building.evaluation.data import first_batch

if TYPE_CHECKING:
    from cdk_inference.model import ModelRecipe


def main() -> None:
    """Export."""
    recipe_file, target = map(Path, sys.argv[1:])
    recipe, folder = load_recipe(recipe_file)
    target.mkdir(parents=True, exist_ok=True)
    batch = first_batch(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
    inputs = {name: np.ascontiguousarray(array[:1]) for name, array in batch.items()}
    module = make_module(recipe, folder)
    torch.save(module, target / "model.pt")
    export(recipe, module, inputs, target / "float32.onnx")
    described = {}
    for name, array in inputs.items():
        array.tofile(target / f"{name}.raw")
        described[name] = {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "file": str((target / f"{name}.raw").absolute()),
        }
    (target / "inputs.json").write_text(json.dumps(described), "utf-8")
    tensors = {
        name: {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "data": base64.b64encode(array.tobytes()).decode("ascii"),
        }
        for name, array in inputs.items()
    }
    (target / "event.json").write_text(json.dumps({"groups": [{"indices": [0], "inputs": tensors}]}), "utf-8")


def make_module(recipe: ModelRecipe, folder: Path) -> torch.nn.Module:
    """Return the module with its weights."""
    source = recipe.source
    if not isinstance(source, TorchModule):
        raise SystemExit(f"{recipe.name} does not come from PyTorch")
    file, _, function = source.factory.partition(":")
    sys.path.insert(0, str(folder))  # where unpickling finds the class, too
    module: torch.nn.Module = getattr(importlib.import_module(Path(file).stem), function)()
    if isinstance(source.weights, PackageFile):
        weights = Path(str(distribution(source.weights.package).locate_file(source.weights.path)))
    else:
        weights = folder / str(source.weights)
    if source.weights is not None:
        state = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
        module.load_state_dict(state)
    return module.eval()


def export(recipe: ModelRecipe, module: torch.nn.Module, inputs: dict[str, np.ndarray[Any, Any]], target: Path) -> None:
    """Export with torch's own defaults, the batch and other named dimensions open.

    Outputs are not named: the exporter does not notice when a value inside has the name.
    """
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in recipe.inputs
    )
    # An example of one item would make the batch a constant.
    example = tuple(torch.from_numpy(np.concatenate([array, array])) for array in inputs.values())
    program = torch.onnx.export(
        module,
        example,
        input_names=[spec.name for spec in recipe.inputs],
        dynamic_shapes=dynamic,
        dynamo=True,
        verbose=False,
    )
    program.save(target, external_data=False)


if __name__ == "__main__":
    main()
