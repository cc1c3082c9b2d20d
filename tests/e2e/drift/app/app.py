"""A pipeline over records of four numbers, with all that tells how it is doing."""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_sns as sns

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = cdk.App()
stack = cdk.Stack(app, "Drift")
pipeline = InferencePipeline(
    stack,
    "Records",
    model=ModelArtifact(stack, "Model", recipe=HERE / "model" / "recipe.py"),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    postprocess=Postprocess.classification(labels=["low", "middle", "high"]),
    max_batching_window=cdk.Duration.seconds(1),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
pipeline.add_drift_monitor(window=cdk.Duration.minutes(5))
pipeline.add_dashboard(name="records")
pipeline.add_alarms(topic=sns.Topic(stack, "Topic"))

app.synth()
