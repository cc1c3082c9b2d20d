"""Finds faces and parts of bodies in photographs that land in a bucket."""

from pathlib import Path

from aws_cdk import App, Stack

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = App()
stack = Stack(app, "Detection")
InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe=HERE / "recipe.py"),
    preprocess=Preprocess.function(
        HERE / "preprocess.py:preprocess",
        requirements=["pillow==13.0.0"],
        sources=[HERE / "pixels.py"],
        suffixes=[".jpeg", ".jpg", ".png"],
        keep=["picture"],
    ),
    postprocess=Postprocess.detection(labels=HERE / "labels.txt"),
)
app.synth()
