"""Models as data: a recipe goes in, a quantized and gated ONNX artifact comes out.

Importing this loads neither torch nor CDK.
The construct that puts an artifact into an app is `cdk_inference.model.artifact.ModelArtifact`.
"""

from cdk_inference.model.builder import BuiltModel, build_model
from cdk_inference.model.cascade import Calibration, calibrate
from cdk_inference.model.evaluation import Evaluation
from cdk_inference.model.manifest import Manifest, Metric
from cdk_inference.model.precision import Auto, DynamicInt8, Float16, Float32, StaticInt8, WeightOnly
from cdk_inference.model.recipe import ModelRecipe, Provenance, load_recipe
from cdk_inference.model.sources import Download, HubFile, OnnxFile, PackageFile, TorchModule, TorchProgram
from cdk_inference.model.tensors import TensorSpec

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
