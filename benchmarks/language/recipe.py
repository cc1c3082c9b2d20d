"""The language model in blocks of 4 bits. Its weights are random, so that the gate only asks for likeness."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule, WeightOnly

RECIPE = ModelRecipe(
    name="half-a-billion",
    source=TorchModule("decisions.py:build"),
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "tokens")),
        TensorSpec("attention_mask", "int64", ("batch", "tokens")),
    ),
    outputs=(TensorSpec("scores", "float32", ("batch", 3)),),
    # Random weights have no outliers and no redundancy: 4 bits change their sums more than those of a trained model.
    evaluation=Evaluation(data="data.py:prompts", metric="cosine", max_drop=0.2),
    precision=WeightOnly(bits=4),
    provenance=Provenance(license="Apache-2.0", origin="random weights of the shape of Qwen2.5-0.5B"),
    packages=("transformers",),
)
