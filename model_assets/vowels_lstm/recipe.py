"""Who of nine men is speaking: an LSTM for utterances of any length, trained by train.py beside this file."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="vowels-lstm",
    source=TorchModule(factory="factory.py:build", weights="weights.safetensors"),
    inputs=(
        TensorSpec("frames", "float32", ("batch", "sequence", 12)),
        TensorSpec("lengths", "int64", ("batch",)),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 9)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(
        data="data.py:evaluation", metric="top1", max_drop=0.01, floor=0.95, class_names="labels.txt"
    ),
    provenance=Provenance(
        license="Apache-2.0",
        origin="trained by train.py on the utterances of https://doi.org/10.24432/C5NS47 (CC BY 4.0)",
    ),
)
