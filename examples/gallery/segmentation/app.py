"""Says of each pixel of a picture that lands in a bucket what it shows."""

from pathlib import Path

from aws_cdk import App, Stack

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = App()
stack = Stack(app, "Segmentation")
InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe=HERE / "recipe.py"),
    preprocess=Preprocess.image(size=48, resize="stretch"),
    postprocess=Postprocess.segmentation(labels=["background", "circle", "square"]),
)
app.synth()
