"""A candidate takes over step by step, and is taken back when its answers differ from those of the stable model."""

from pathlib import Path

from aws_cdk import App, Duration, Stack

from cdk_inference import AbortOn, InferencePipeline, ModelArtifact, Postprocess, Preprocess, Release, Route
from cdk_inference.model import Float16, Float32

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "model_assets" / "digits_cnn"

app = App()
stack = Stack(app, "Digits", description="Releases a model that reads digits (cdk-inference)")
stable = ModelArtifact(stack, "Stable", recipe=MODEL / "recipe.py", precision=Float32())
smaller = ModelArtifact(stack, "Smaller", recipe=MODEL / "recipe.py", precision=Float16())

# The model passed its gate. The preprocessing has a mistake, unless you ask for a good candidate.
good = app.node.try_get_context("candidate") == "good"
preprocess = Preprocess.tensor() if good else Preprocess.function(HERE / "transposed.py:preprocess")

InferencePipeline(
    stack,
    "Reader",
    model=stable,
    preprocess=Preprocess.tensor(),
    postprocess=Postprocess.classification(labels=MODEL / "labels.txt"),
    release=Release.canary(
        candidate=Route("smaller", model=smaller, preprocess=preprocess),
        steps=[20, 100],
        bake_time=Duration.seconds(20),  # so that you can watch; half an hour or more in production
        window=Duration.seconds(5),
        abort_on=[AbortOn.errors(), AbortOn.disagreement(metric="top1_agreement", agreement=0.97)],
        compared=25,
    ),
)
app.synth()
