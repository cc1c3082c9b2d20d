from cdk_inference.model import (
    Evaluation,
    Float32,
    Graph,
    Graphs,
    ModelRecipe,
    Provenance,
    Recurrent,
    TensorSpec,
    TorchModule,
)

WINDOW = 256
RECIPE = ModelRecipe(
    name="voice",
    source=Graphs(
        {
            "window": Graph(
                TorchModule("factory.py:build"),
                inputs=(
                    TensorSpec("samples", "float32", ("batch", WINDOW)),
                    TensorSpec("level", "float32", ("batch", 1)),
                ),
                outputs=(
                    TensorSpec("score", "float32", ("batch", 1)),
                    TensorSpec("next_level", "float32", ("batch", 1)),
                ),
            )
        },
        driver=Recurrent(over="samples", chunk=WINDOW, states={"next_level": "level"}, outputs={"score": "joined"}),
    ),
    precision=Float32(),
    inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("score", "float32", ("batch", "windows")),),
    evaluation=Evaluation("data.py:evaluation", metric="mean_absolute_error", max_drop=0, sample_rate=8_000),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
