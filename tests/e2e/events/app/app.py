"""Pipelines over records of four numbers.

The results of one are events on a bus, next to a table and a bus of others. The other has all that tells how it is
doing.
"""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from cdk_inference import AuditLog, Execution, InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = cdk.App()
stack, drift = cdk.Stack(app, "Events"), cdk.Stack(app, "Drift")


def records(stack: cdk.Stack, **options: object) -> InferencePipeline:
    return InferencePipeline(
        stack,
        "Records",
        model=ModelArtifact(stack, "Model", recipe=HERE / "model" / "recipe.py"),
        preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
        postprocess=Postprocess.classification(labels=["low", "middle", "high"]),
        max_batching_window=cdk.Duration.seconds(1),
        removal_policy=cdk.RemovalPolicy.DESTROY,
        **options,
    )


pipeline = records(stack, execution=Execution.fused())
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

watched = records(drift)
watched.add_drift_monitor(window=cdk.Duration.minutes(5))
watched.add_dashboard(name="records")
watched.add_alarms(topic=sns.Topic(drift, "Topic"))

app.synth()
