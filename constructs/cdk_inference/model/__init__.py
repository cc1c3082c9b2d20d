"""Models as data: a recipe goes in, a quantized and gated ONNX artifact comes out.

Importing this loads neither torch nor CDK; the names are imported on first use, since an app needs few of them.
The construct that puts an artifact into an app is `cdk_inference.model.artifact.ModelArtifact`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.model.calibration import Calibration
    from cdk_inference.model.cascade import calibrate
    from cdk_inference.model.project import BuiltModel, build_model
    from cdk_inference.model.recipe.drivers import Beam, Greedy, Recurrent
    from cdk_inference.model.recipe.evaluation import Evaluation
    from cdk_inference.model.recipe.graphs import Graph, Graphs
    from cdk_inference.model.recipe.heads import DetrHead, EndToEndHead, MaskHead, NmsHead, YoloHead
    from cdk_inference.model.recipe.precision import (
        Auto,
        DynamicInt8,
        Float16,
        Float32,
        PerGraph,
        StaticInt8,
        WeightOnly,
    )
    from cdk_inference.model.recipe.recipe import ModelRecipe, Provenance, load_recipe
    from cdk_inference.model.recipe.sampling import Sampling
    from cdk_inference.model.recipe.sources import Download, HubFile, OnnxFile, PackageFile, TorchModule, TorchProgram
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Manifest, Metric

_MODULES = {
    "Auto": "recipe.precision",
    "Beam": "recipe.drivers",
    "BuiltModel": "project",
    "Calibration": "calibration",
    "DetrHead": "recipe.heads",
    "Download": "recipe.sources",
    "DynamicInt8": "recipe.precision",
    "EndToEndHead": "recipe.heads",
    "Evaluation": "recipe.evaluation",
    "Float16": "recipe.precision",
    "Float32": "recipe.precision",
    "Graph": "recipe.graphs",
    "Graphs": "recipe.graphs",
    "Greedy": "recipe.drivers",
    "HubFile": "recipe.sources",
    "Manifest": "records.manifest",
    "MaskHead": "recipe.heads",
    "Metric": "records.manifest",
    "ModelRecipe": "recipe.recipe",
    "NmsHead": "recipe.heads",
    "OnnxFile": "recipe.sources",
    "PackageFile": "recipe.sources",
    "PerGraph": "recipe.precision",
    "Provenance": "recipe.recipe",
    "Recurrent": "recipe.drivers",
    "Sampling": "recipe.sampling",
    "StaticInt8": "recipe.precision",
    "TensorSpec": "recipe.tensors",
    "TorchModule": "recipe.sources",
    "TorchProgram": "recipe.sources",
    "WeightOnly": "recipe.precision",
    "YoloHead": "recipe.heads",
    "build_model": "project",
    "calibrate": "cascade",
    "load_recipe": "recipe.recipe",
}

__all__ = [
    "Auto",
    "Beam",
    "BuiltModel",
    "Calibration",
    "DetrHead",
    "Download",
    "DynamicInt8",
    "EndToEndHead",
    "Evaluation",
    "Float16",
    "Float32",
    "Graph",
    "Graphs",
    "Greedy",
    "HubFile",
    "Manifest",
    "MaskHead",
    "Metric",
    "ModelRecipe",
    "NmsHead",
    "OnnxFile",
    "PackageFile",
    "PerGraph",
    "Provenance",
    "Recurrent",
    "Sampling",
    "StaticInt8",
    "TensorSpec",
    "TorchModule",
    "TorchProgram",
    "WeightOnly",
    "YoloHead",
    "build_model",
    "calibrate",
    "load_recipe",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
