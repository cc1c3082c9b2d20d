"""A pipeline over records of four numbers, with a drift monitor."""

from pathlib import Path

import aws_cdk as cdk

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
monitor = pipeline.add_drift_monitor(window=cdk.Duration.minutes(5))
monitor.metric_drift().create_alarm(
    stack,
    "Drifted",
    threshold=1,
    evaluation_periods=1,
    treat_missing_data=cdk.aws_cloudwatch.TreatMissingData.NOT_BREACHING,
)

app.synth()
