"""A pipeline over records of four numbers, whose results are events on a bus, next to a table and a bus of others."""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs

from cdk_inference import AuditLog, Execution, InferencePipeline, ModelArtifact, Postprocess, Preprocess

MODEL = Path(__file__).parents[2] / "drift" / "app" / "model"

app = cdk.App()
stack = cdk.Stack(app, "Events")
pipeline = InferencePipeline(
    stack,
    "Records",
    model=ModelArtifact(stack, "Model", recipe=MODEL / "recipe.py"),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    postprocess=Postprocess.classification(labels=["low", "middle", "high"]),
    execution=Execution.fused(),
    max_batching_window=cdk.Duration.seconds(1),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
for name, statuses in {"All": [], "Rejected": ["REJECTED"]}.items():
    queue = sqs.Queue(stack, f"{name}Queue", queue_name=name)
    pipeline.on_result(name, target=targets.SqsQueue(queue), statuses=statuses)

pipeline.audit(AuditLog(stack, "Log", max_batching_window=cdk.Duration.seconds(1)))
pipeline.add_drift_monitor(window=cdk.Duration.minutes(5))
events.EventBus(stack, "Neighbour", event_bus_name="neighbour")
dynamodb.TableV2(
    stack,
    "NeighbourTable",
    table_name="neighbour",
    partition_key=dynamodb.Attribute(name="object", type=dynamodb.AttributeType.STRING),
    dynamo_stream=dynamodb.StreamViewType.NEW_IMAGE,
    removal_policy=cdk.RemovalPolicy.DESTROY,
)

app.synth()
