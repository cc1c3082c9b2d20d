"""The network that reads digits, with an evaluation that looks at what people have labelled, too."""

from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="digits-retrained",
    source=TorchModule(factory="factory.py:build", weights="weights.safetensors"),
    precision=Float32(),  # so that a run takes seconds; leave it out in production
    inputs=(TensorSpec("images", "uint8", ("batch", 8, 8)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="top1", max_drop=0.01, floor=0.9, class_names="labels.txt"),
    provenance=Provenance(
        license="Apache-2.0",
        origin="trained on the digits of https://doi.org/10.24432/C50P49 (CC BY 4.0), and on what people label",
    ),
)
