"""A pipeline over a small model, deployed as a user of an unusual machine would."""

from pathlib import Path

import aws_cdk as cdk

from cdk_inference import Execution, InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = cdk.App()
stack = cdk.Stack(app, "Small")
InferencePipeline(
    stack,
    "Sums",
    model=ModelArtifact(stack, "Model", recipe=HERE / "model" / "recipe.py"),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    postprocess=Postprocess.function(HERE / "größer.py:postprocess", requirements=["inflection==0.5.1"]),
    execution=Execution.fused(),
    suffixes=[".json"],
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
app.synth()
