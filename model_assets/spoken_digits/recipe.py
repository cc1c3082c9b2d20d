"""Spoken digits as words: a recognizer whose features are in the graph, trained by train.py next to this file."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="spoken-digits",
    source=TorchModule(factory="factory.py:build", weights="weights.safetensors"),
    inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("logits", "float32", ("batch", "frames", 11)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(
        data="data.py:evaluation",
        metric="word_error_rate",
        max_drop=0.01,
        floor=0.05,
        vocabulary="vocabulary.txt",
        blank=0,
        sample_rate=8_000,
    ),
    provenance=Provenance(license="Apache-2.0", origin="trained by train.py on digits that eSpeak NG speaks"),
)
