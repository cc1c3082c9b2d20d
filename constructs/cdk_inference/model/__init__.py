"""Models as data: a recipe goes in, a quantized and gated ONNX artifact comes out.

Importing this loads neither torch nor CDK.
The construct that puts an artifact into an app is `cdk_inference.model.artifact.ModelArtifact`.
"""

from cdk_inference.model.builder import BuiltModel, build_model
from cdk_inference.model.manifest import Manifest, Metric
from cdk_inference.model.recipe import (
    Evaluation,
    Float32,
    ModelRecipe,
    Provenance,
    StaticInt8,
    TensorSpec,
    load_recipe,
)

__all__ = [
    "BuiltModel",
    "Evaluation",
    "Float32",
    "Manifest",
    "Metric",
    "ModelRecipe",
    "Provenance",
    "StaticInt8",
    "TensorSpec",
    "build_model",
    "load_recipe",
]
