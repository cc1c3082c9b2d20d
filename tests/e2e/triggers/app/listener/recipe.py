from cdk_inference.model import (
    Beam,
    Evaluation,
    Float32,
    Graph,
    Graphs,
    ModelRecipe,
    Provenance,
    TensorSpec,
    TorchModule,
)

HEARD = TensorSpec("heard", "float32", ("batch", "frames", 11))
RECIPE = ModelRecipe(
    name="listener",
    source=Graphs(
        {
            "encoder": Graph(
                TorchModule("transducer.py:encoder", weights="weights.safetensors"),
                inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
                outputs=(HEARD,),
            ),
            "decoder": Graph(
                TorchModule("transducer.py:decoder"),
                inputs=(TensorSpec("tokens", "int64", ("batch", 1)), HEARD, TensorSpec("frame", "int64", ("batch",))),
                outputs=(TensorSpec("logits", "float32", ("batch", 12)), TensorSpec("next_frame", "int64", ("batch",))),
            ),
        },
        driver=Beam(width=2, start=0, end=11, max_steps=12, states={"next_frame": "frame"}),
    ),
    precision=Float32(),
    inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("tokens", "int64", ("batch", 12)), TensorSpec("scores", "float32", ("batch",))),
    evaluation=Evaluation(
        data="data.py:evaluation",
        metric="word_error_rate",
        max_drop=0,
        floor=0.05,
        vocabulary="vocabulary.txt",
        sample_rate=8_000,
    ),
    provenance=Provenance(license="Apache-2.0", origin="the recognizer of model_assets/spoken_digits"),
)
