"""ResNet-18 with random weights: for what int8 saves in size and time, not for what it sees."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="resnet18",
    source=TorchModule(factory="factory.py:build"),
    inputs=(TensorSpec("images", "uint8", ("batch", 224, 224, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.02),
    provenance=Provenance(license="Apache-2.0", origin="random weights"),
)
