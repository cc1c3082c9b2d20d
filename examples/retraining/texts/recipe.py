"""The network that tells languages, with an evaluation that looks at what people have labelled, too."""

from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="texts-retrained",
    source=TorchModule(factory="factory.py:build", weights="weights.safetensors"),
    precision=Float32(),  # so that a run takes seconds; leave it out in production
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 6)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="top1", max_drop=0.01, floor=0.7, class_names="labels.txt"),
    provenance=Provenance(
        license="Apache-2.0",
        origin="trained on sentences of https://github.com/django/django (BSD-3-Clause), and on what people label",
    ),
)
