"""Pipelines that release a candidate, which does to each object what the object tells it to."""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs

from cdk_inference import (
    AbortOn,
    AuditLog,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    Release,
    Route,
    Routing,
)

HERE = Path(__file__).parent

app = cdk.App()
stack = cdk.Stack(app, "Releases")
old, new = (ModelArtifact(stack, name, recipe=HERE / "models" / f"{name}.py") for name in ("old", "new"))
alarm = cloudwatch.Alarm(
    stack,
    "Alarm",
    metric=cloudwatch.Metric(namespace="Tests", metric_name="Anything"),
    threshold=1,
    evaluation_periods=1,
)
candidate = Route("new", model=new, preprocess=Preprocess.function(HERE / "obey.py:preprocess"))
numbers = Preprocess.json(fields=["a", "b", "c", "d"])
main, aside = (Route(name, model=old, preprocess=numbers) for name in ("main", "aside"))
PIPELINES = {
    "Numbers": {
        "model": old,
        "preprocess": numbers,
        "release": Release.canary(
            candidate=candidate,
            steps=[50, 100],
            bake_time=cdk.Duration.seconds(1),
            window=cdk.Duration.seconds(10),
            abort_on=[AbortOn.errors(), AbortOn.latency(times=1.5), AbortOn.disagreement(), alarm],
            compared=100,
            min_samples=10,
        ),
    },
    "Shadow": {
        "routing": Routing.by_key({"aside/*": aside}, otherwise=main),
        "release": Release.shadow(
            candidate, 100, stable=main, window=cdk.Duration.seconds(10), abort_on=[AbortOn.disagreement()]
        ),
    },
}
for name, props in PIPELINES.items():
    pipeline = InferencePipeline(
        stack,
        name,
        **props,
        postprocess=Postprocess.classification(labels=["a", "b", "c", "d"]),
        max_receive_count=1,
        stage_timeout=cdk.Duration.seconds(20),
        workflow_timeout=cdk.Duration.minutes(2),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    # The hash that shares objects out is of the bucket's name too, and a random one gives other shares in each run.
    pipeline.trigger.bucket.node.default_child.bucket_name = name.lower()
    pipeline.add_dashboard()
queue = sqs.Queue(stack, "Queue", queue_name="aborted")
pipeline.release.on_decision("Aborted", target=targets.SqsQueue(queue), statuses=["ABORTED"])
pipeline.audit(AuditLog(stack, "Log", max_batching_window=cdk.Duration.seconds(1)))
app.synth()
