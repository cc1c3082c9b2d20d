"""Numbers in words: an encoder and a decoder with a cache, trained by train.py next to this file."""

from cdk_inference.model import Evaluation, Graph, Graphs, Greedy, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="number-words",
    source=Graphs(
        {
            "encoder": Graph(
                TorchModule("factory.py:encoder", weights="encoder.safetensors"),
                inputs=(TensorSpec("digits", "int64", ("batch", 6)),),
                outputs=(TensorSpec("memory", "float32", ("batch", 6, 64)),),
            ),
            "decoder": Graph(
                TorchModule("factory.py:decoder", weights="decoder.safetensors"),
                inputs=(
                    TensorSpec("tokens", "int64", ("batch", 1)),
                    TensorSpec("place", "int64", ("batch",)),
                    TensorSpec("memory", "float32", ("batch", 6, 64)),
                    TensorSpec("cache", "float32", ("batch", "before", 256)),
                ),
                outputs=(
                    TensorSpec("logits", "float32", ("batch", 33)),
                    TensorSpec("longer_cache", "float32", ("batch", "after", 256)),
                ),
            ),
        },
        driver=Greedy(start=1, end=2, never=(0,), max_steps=12, position="place", states={"longer_cache": "cache"}),
    ),
    inputs=(TensorSpec("digits", "int64", ("batch", 6)),),
    outputs=(TensorSpec("tokens", "int64", ("batch", 12)), TensorSpec("scores", "float32", ("batch",))),
    calibration="data.py:calibration",
    evaluation=Evaluation(
        data="data.py:evaluation", metric="exact_match", max_drop=0.005, floor=0.98, vocabulary="vocabulary.txt"
    ),
    provenance=Provenance(license="Apache-2.0", origin="trained by train.py on numbers that data.py makes"),
)
