"""Pipelines over a small model: the user's own stages, also fused, a bucket of the user, built-in stages.

Each has its model delivered in another way.
"""

import math
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3

from cdk_inference import (
    Column,
    Execution,
    Explain,
    Inference,
    InferencePipeline,
    LambdaPlatform,
    ModelArtifact,
    ModelDelivery,
    Postprocess,
    Preprocess,
    ResultsExport,
    ResultsTable,
)
from cdk_inference.model import MaskHead, YoloHead

HERE = Path(__file__).parent
ASK = """
import os, boto3

def handler(event, context):
    if "mask" in event:
        bucket, _, key = event["mask"].removeprefix("s3://").partition("/")
        return len(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    return table.get_item(Key=event)["Item"]["status"]
"""


app = cdk.App()
stack = cdk.Stack(app, "Stages")
options = {"removal_policy": cdk.RemovalPolicy.DESTROY}
model = ModelArtifact(stack, "Model", recipe=HERE / "model" / "recipe.py")

for name, execution in {"Obedient": Execution.staged(), "Fused": Execution.fused()}.items():
    obedient = InferencePipeline(
        stack,
        name,
        model=model,
        preprocess=Preprocess.function(HERE / "obey.py:keep", sources=[HERE / "words.py"], keep=["order", "about"]),
        postprocess=Postprocess.function(HERE / "tell.py:repeat", requirements=["inflection==0.5.1"]),
        execution=execution,
        max_batching_window=cdk.Duration.seconds(2),
        max_receive_count=1,
        stage_timeout=cdk.Duration.seconds(8),
        **options,
    )
lists = s3.Bucket(stack, "Inventories", enforce_ssl=True, removal_policy=cdk.RemovalPolicy.DESTROY)
operator = iam.User(stack, "Operator", user_name="operator")
obedient.add_backfill(inventory_bucket=lists).grant_start(operator)

key = kms.Key(stack, "Key", removal_policy=cdk.RemovalPolicy.DESTROY)
bucket = s3.Bucket(stack, "Bucket", versioned=True, enforce_ssl=True, removal_policy=cdk.RemovalPolicy.DESTROY)
bucket.node.default_child.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
    event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
)
results = ResultsTable(stack, "Results", encryption_key=key, indexes=["prefix", "time", "status", "label"], **options)
results.grant_query(iam.User(stack, "Finder", user_name="finder"))
export = ResultsExport(stack, "Export", results=results, encryption_key=key, **options)
export.grant_read(iam.User(stack, "Analyst", user_name="analyst"))
shared = {"model": model, "bucket": bucket, "results": results, "encryption_key": key, **options}
InferencePipeline(
    stack,
    "Tables",
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    inference=Inference.cpu(delivery=ModelDelivery.s3()),
    explain=Explain.always(),
    prefix="rows/",
    suffixes=[".json"],
    **shared,
)
InferencePipeline(
    stack,
    "Tensors",
    preprocess=Preprocess.tensor(),
    inference=Inference.cpu(delivery=ModelDelivery.layer()),
    suffixes=[".npy"],
    **shared,
)
digits = Path(__file__).parents[4] / "model_assets" / "digits_cnn"
InferencePipeline(
    stack,
    "Digits",
    preprocess=Preprocess.raw_tensor(dtype="uint8", shape=(8, 8)),
    postprocess=Postprocess.classification(labels=digits / "labels.txt"),
    explain=Explain.on_request(heat_map=True),
    prefix="digits/",
    **shared | {"model": ModelArtifact(stack, "DigitsModel", recipe=digits / "recipe.py")},
)

InferencePipeline(
    stack,
    "Records",
    model=ModelArtifact(stack, "Trees", recipe=HERE / "records" / "recipe.py"),
    preprocess=Preprocess.csv(
        columns=[
            Column.number("age", missing=math.nan),
            Column.text("town"),
            Column.category("size", ["S", "M", "L"], unknown=-100),
        ]
    ),
    suffixes=[".csv"],
    **options,
)
colours = ModelArtifact(stack, "Colours", recipe=HERE / "colours" / "recipe.py")
image = Preprocess.image(size=32, resize="pad", interpolation="nearest")
masks = InferencePipeline(
    stack,
    "Masks",
    model=colours,
    preprocess=image,
    postprocess=Postprocess.segmentation(labels=["nothing", "red", "green"], head=MaskHead(output="areas")),
    **options,
)
InferencePipeline(
    stack,
    "Boxes",
    model=colours,
    preprocess=image,
    postprocess=Postprocess.detection(labels=["red", "green"], head=YoloHead(output="boxes"), min_score=0.8),
    execution=Execution.fused(),
    **options,
)

for name in ("Reader", "Stranger"):
    function = lambda_.Function(
        stack,
        name,
        runtime=LambdaPlatform.resolve(stack, None).runtime,
        handler="index.handler",
        code=lambda_.Code.from_inline(ASK),
        environment={"TABLE": results.table.table_name},
        timeout=cdk.Duration.seconds(20),
    )
    if name == "Reader":
        results.grant_read_data(function)
        masks.stages.work.grant_read_masks(function)
    cdk.CfnOutput(stack, f"{name}Function", value=function.function_name)
cdk.CfnOutput(stack, "InventoriesName", value=lists.bucket_name)
cdk.CfnOutput(stack, "BucketName", value=bucket.bucket_name)
cdk.CfnOutput(stack, "ExportFunction", value=export.function.target.function_arn)
cdk.CfnOutput(stack, "ExportBucket", value=export.bucket.bucket_name)
cdk.CfnOutput(stack, "TableName", value=results.table.table_name)

app.synth()
