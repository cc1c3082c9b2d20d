"""A network for twelve numbers, in float32: its arithmetic is compared between machines, its answers mean nothing."""

from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="twelve-columns",
    source=TorchModule(factory="factory.py:build"),
    inputs=(TensorSpec("columns", "float32", ("batch", 12)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 9)),),
    precision=Float32(),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.01),
    provenance=Provenance(license="CC0-1.0", origin="random numbers"),
)
