from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="decider",
    source=TorchModule("deciding.py:build"),
    precision=Float32(),
    inputs=tuple(TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")),
    outputs=(TensorSpec("scores", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="data.py:prompts", max_drop=0),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
