"""Where someone speaks: silero-vad, whose state is carried from window to window of a recording."""

from cdk_inference.model import (
    Evaluation,
    Graph,
    Graphs,
    ModelRecipe,
    OnnxFile,
    Provenance,
    Recurrent,
    TensorSpec,
)

WINDOW, CONTEXT = 512, 64  # samples at 16 kHz; each window is seen with the end of the one before

RECIPE = ModelRecipe(
    name="speech",
    source=Graphs(
        {
            "window": Graph(
                OnnxFile("model.onnx"),
                inputs=(
                    TensorSpec("input", "float32", ("batch", WINDOW + CONTEXT)),
                    TensorSpec("state", "float32", ("batch", 2, 128)),
                ),
                outputs=(
                    TensorSpec("output", "float32", ("batch", 1)),
                    TensorSpec("stateN", "float32", ("batch", 2, 128)),
                ),
            )
        },
        driver=Recurrent(
            over="input", chunk=WINDOW, context=CONTEXT, states={"stateN": "state"}, outputs={"output": "joined"}
        ),
    ),
    inputs=(TensorSpec("input", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("output", "float32", ("batch", "windows")),),
    evaluation=Evaluation("data.py:recordings", metric="mean_absolute_error", max_drop=0.01, sample_rate=16_000),
    provenance=Provenance(license="MIT", origin="https://pypi.org/project/silero-vad/"),
)
