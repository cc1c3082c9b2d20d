"""A small network that reads handwritten digits, trained by train.py beside this file."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="digits-cnn",
    source=TorchModule(factory="factory.py:build", weights="weights.safetensors"),
    inputs=(TensorSpec("images", "uint8", ("batch", 8, 8)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(
        data="data.py:evaluation", metric="top1", max_drop=0.01, floor=0.98, class_names="labels.txt"
    ),
    provenance=Provenance(
        license="Apache-2.0",
        origin="trained by train.py on the digits of https://doi.org/10.24432/C50P49 (CC BY 4.0)",
    ),
)
