"""Stages of your own: HEIC photographs in, whether there is an animal in them out."""

from pathlib import Path

from aws_cdk import App, Stack

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "model_assets" / "efficientnet_lite"
SUFFIXES = [".heic", ".jpg", ".jpeg"]

app = App()
stack = Stack(app, "Animals")
InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe=MODEL / "lite0.py"),
    preprocess=Preprocess.function(
        HERE / "photos.py:preprocess", requirements=HERE / "requirements.txt", suffixes=SUFFIXES
    ),
    postprocess=Postprocess.function(HERE / "animals.py:postprocess"),
    suffixes=SUFFIXES,
)
app.synth()
