"""A classifier of texts, as transformers has it."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="texts",
    source=TorchModule(factory="factory.py:build"),
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.02),
    provenance=Provenance(license="Apache-2.0", origin="random weights"),
    packages=("transformers",),
)
