"""Models as data: a recipe goes in, a quantized and gated ONNX artifact comes out.

Importing this loads neither torch nor CDK; the names are imported on first use, since an app needs few of them.
The construct that puts an artifact into an app is `cdk_inference.model.artifact.ModelArtifact`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.model.builder import BuiltModel, build_model
    from cdk_inference.model.cascade import Calibration, calibrate
    from cdk_inference.model.evaluation import Evaluation
    from cdk_inference.model.manifest import Manifest, Metric
    from cdk_inference.model.precision import Auto, DynamicInt8, Float16, Float32, StaticInt8, WeightOnly
    from cdk_inference.model.recipe import ModelRecipe, Provenance, load_recipe
    from cdk_inference.model.sources import Download, HubFile, OnnxFile, PackageFile, TorchModule, TorchProgram
    from cdk_inference.model.tensors import TensorSpec

_MODULES = {
    "Auto": "precision",
    "BuiltModel": "builder",
    "Calibration": "cascade",
    "Download": "sources",
    "DynamicInt8": "precision",
    "Evaluation": "evaluation",
    "Float16": "precision",
    "Float32": "precision",
    "HubFile": "sources",
    "Manifest": "manifest",
    "Metric": "manifest",
    "ModelRecipe": "recipe",
    "OnnxFile": "sources",
    "PackageFile": "sources",
    "Provenance": "recipe",
    "StaticInt8": "precision",
    "TensorSpec": "tensors",
    "TorchModule": "sources",
    "TorchProgram": "sources",
    "WeightOnly": "precision",
    "build_model": "builder",
    "calibrate": "cascade",
    "load_recipe": "recipe",
}

__all__ = [
    "Auto",
    "BuiltModel",
    "Calibration",
    "Download",
    "DynamicInt8",
    "Evaluation",
    "Float16",
    "Float32",
    "HubFile",
    "Manifest",
    "Metric",
    "ModelRecipe",
    "OnnxFile",
    "PackageFile",
    "Provenance",
    "StaticInt8",
    "TensorSpec",
    "TorchModule",
    "TorchProgram",
    "WeightOnly",
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
