"""Pipelines whose items do not come from a bucket, with the stages and the model of another app."""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs

from cdk_inference import Execution, InferencePipeline, ModelArtifact, Postprocess, Preprocess, QueueTrigger

STAGES = Path(__file__).parents[2] / "stages" / "app"

app = cdk.App()
stack = cdk.Stack(app, "Triggers")
model = ModelArtifact(stack, "Model", recipe=STAGES / "model" / "recipe.py")
options = {"model": model, "execution": Execution.fused(), "removal_policy": cdk.RemovalPolicy.DESTROY}

texts = InferencePipeline(
    stack,
    "Texts",
    trigger=QueueTrigger(
        stack,
        "TextQueue",
        max_receive_count=1,
        max_batching_window=cdk.Duration.seconds(2),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    ),
    preprocess=Preprocess.function(STAGES / "obey.py:preprocess", sources=[STAGES / "words.py"]),
    postprocess=Postprocess.function(STAGES / "tell.py:postprocess", requirements=["inflection==0.5.1"]),
    stage_timeout=cdk.Duration.seconds(8),
    **options,
)

queue = sqs.Queue(
    stack,
    "Orders",
    queue_name="orders",
    visibility_timeout=cdk.Duration.minutes(6),
    max_message_size_bytes=8192,
)
orders = InferencePipeline(
    stack,
    "Records",
    trigger=QueueTrigger(
        stack,
        "OrderQueue",
        queue=queue,
        item_id="$.order.id",
        sequence="$.order.version",
        max_receive_count=1,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    ),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    **options,
)

sender = iam.User(stack, "Sender", user_name="sender")
texts.grant_put(sender)
app.synth()
