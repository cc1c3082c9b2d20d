"""Names the parts of the model, and how good it must be."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="shapes",
    source=TorchModule(factory="network.py:build", weights="weights.safetensors"),
    inputs=(TensorSpec("pictures", "uint8", ("batch", 32, 32, 3)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 3)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="top1", floor=0.9),
    provenance=Provenance(license="MIT", origin="trained by train.py"),
)
