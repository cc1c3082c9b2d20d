"""A classifier of pictures, as timm has it."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="timm",
    source=TorchModule(factory="factory.py:build"),
    inputs=(TensorSpec("pictures", "uint8", ("batch", 160, 160, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.05),
    provenance=Provenance(license="Apache-2.0", origin="random weights"),
    packages=("timm",),
)
