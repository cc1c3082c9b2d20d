"""Pipelines whose items do not come from a bucket, with the stages and the model of another app."""

import shutil
from pathlib import Path

import aws_cdk as cdk
import numpy as np
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_apigatewayv2 import CorsHttpMethod, CorsPreflightOptions
from aws_cdk.aws_apigatewayv2_authorizers import HttpUserPoolAuthorizer

from cdk_inference import (
    DirectPipeline,
    DynamoStreamTrigger,
    Execution,
    InferencePipeline,
    ItemsFormat,
    KinesisTrigger,
    ModelArtifact,
    Postprocess,
    Preprocess,
    QueueTrigger,
    S3ItemsTrigger,
    ScheduleTrigger,
    TextStream,
)
from cdk_inference.model import YoloHead

STAGES = Path(__file__).parents[2] / "stages" / "app"

app = cdk.App()
stack = cdk.Stack(app, "Triggers")
model = ModelArtifact(stack, "Model", recipe=STAGES / "model" / "recipe.py")
data = {"removal_policy": cdk.RemovalPolicy.DESTROY}
options = {"model": model, "execution": Execution.fused(), **data}
obedient = {
    "preprocess": Preprocess.function(STAGES / "obey.py:preprocess", sources=[STAGES / "words.py"]),
    "postprocess": Postprocess.function(STAGES / "tell.py:postprocess", requirements=["inflection==0.5.1"]),
}

texts = InferencePipeline(
    stack,
    "Texts",
    trigger=QueueTrigger(
        stack,
        "TextQueue",
        max_receive_count=1,
        max_batching_window=cdk.Duration.seconds(2),
        **data,
    ),
    **obedient,
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
        **data,
    ),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    **options,
)

# Messages come back as soon as Lambda allows it: nobody would wait longer in a test.
direct = DirectPipeline(
    stack,
    "Direct",
    model=model,
    prefix="in/",
    batch_size=16,
    max_receive_count=2,
    timeout=cdk.Duration.seconds(12),
    **obedient,
    **data,
)
direct.trigger.queue.node.default_child.visibility_timeout = 14

# Recordings become text.
DIGITS = Path(__file__).parents[4] / "model_assets" / "spoken_digits"
hears = Preprocess.audio(sample_rate=8_000, max_seconds=20, formats=["wav", "flac", "ogg"])
DirectPipeline(
    stack,
    "Calls",
    model=ModelArtifact(stack, "SpokenDigits", recipe=DIGITS / "recipe.py"),
    preprocess=hears,
    postprocess=Postprocess.ctc(vocabulary=DIGITS / "vocabulary.txt"),
    **data,
)

caller = iam.User(stack, "Caller", user_name="caller")
orders.add_http_api(content_types=["application/json"]).grant_invoke(caller)
staged = InferencePipeline(
    stack,
    "Staged",
    prefix="inbox/",
    max_receive_count=1,
    **obedient,
    stage_timeout=cdk.Duration.seconds(8),
    model=model,
    **data,
)
asked = staged.add_rest_api(content_types=["application/json", "text/plain", "application/octet-stream"])
asked.grant_invoke(caller)
asked.add_uploads({"text/plain": ".txt"})
asked.add_results()
asked.grant_upload(caller)
asked.grant_read_results(caller)
page = "http://localhost:8000"
keyed = orders.add_rest_api(
    "Keyed", api_key_required=True, anonymous=True, cors_preflight=apigateway.CorsOptions(allow_origins=[page])
)
keyed.add_items()
keyed.add_results()
keyed.add_client("Shop", throttle_rate=100, throttle_burst=100, requests_per_day=1000)
pool = cognito.UserPool(stack, "Pool", removal_policy=cdk.RemovalPolicy.DESTROY)
client = pool.add_client("Client", auth_flows=cognito.AuthFlow(admin_user_password=True))
texts.add_http_api(
    authorizer=HttpUserPoolAuthorizer("Users", pool, user_pool_clients=[client]),
    cors_preflight=CorsPreflightOptions(
        allow_origins=[page], allow_headers=["authorization", "content-type"], allow_methods=[CorsHttpMethod.POST]
    ),
)

nightly = InferencePipeline(
    stack,
    "Nightly",
    trigger=ScheduleTrigger(
        stack,
        "NightlyRuns",
        schedule=scheduler.ScheduleExpression.rate(cdk.Duration.days(365)),
        inputs={"small": "return [1, 2, 3, 4]", "none": "raise"},
        max_receive_count=1,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    ),
    preprocess=obedient["preprocess"],
    **options,
)

stream = kinesis.Stream(stack, "Clicks", stream_name="clicks", shard_count=2)
kinesis.Stream(stack, "Others", stream_name="others")
clicks = InferencePipeline(
    stack,
    "Stream",
    trigger=KinesisTrigger(
        stack,
        "ClickStream",
        stream=stream,
        item_id=KinesisTrigger.PARTITION_KEY,
        parallelization_factor=2,
        max_batching_window=cdk.Duration.seconds(0),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    ),
    preprocess=obedient["preprocess"],
    stage_timeout=cdk.Duration.seconds(8),
    **options,
)

table = dynamodb.Table(
    stack,
    "Users",
    partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
    billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
    stream=dynamodb.StreamViewType.NEW_IMAGE,
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
users = InferencePipeline(
    stack,
    "Table",
    trigger=DynamoStreamTrigger(
        stack,
        "UserStream",
        table=table,
        max_batching_window=cdk.Duration.seconds(0),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    ),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    **options,
)

# Chunks are as small as they may be, so that the state machine takes a few lines apart.
lines = InferencePipeline(
    stack,
    "Lines",
    trigger=S3ItemsTrigger(
        stack,
        "JsonLines",
        items=ItemsFormat.json_lines(item_id="id"),
        chunk_size=cdk.Size.kibibytes(1),
        max_receive_count=1,
        **data,
    ),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    **options,
)
archives = S3ItemsTrigger(
    stack,
    "Zips",
    items=ItemsFormat.zip(suffixes=[".txt"]),
    prefix="in/",
    write_results=True,
    max_receive_count=1,
    **data,
)
InferencePipeline(
    stack,
    "Archives",
    trigger=archives,
    **obedient,
    stage_timeout=cdk.Duration.seconds(8),
    **options,
)

# An encoder and a decoder, which the function without NumPy runs step by step.
NUMBERS = Path(__file__).parents[4] / "model_assets" / "number_words"
numbers = InferencePipeline(
    stack,
    "Numbers",
    model=ModelArtifact(stack, "NumberWords", recipe=NUMBERS / "recipe.py"),
    trigger=QueueTrigger(stack, "NumberQueue", max_receive_count=1, **data),
    preprocess=Preprocess.json(fields=[f"digit{place}" for place in range(6)], dtype="int64"),
    postprocess=Postprocess.text(vocabulary=NUMBERS / "vocabulary.txt"),
    **data,
)

# A language model that writes: one row for each object, and a text in parts for each request.
WRITER = Path(__file__).with_name("writer")
writer = ModelArtifact(stack, "Writer", recipe=WRITER / "recipe.py")
tokenizer = WRITER / "tokenizer.json"
asks = Preprocess.text(tokenizer=tokenizer, field="text", prompt="<|user|>{text}<|end|>", max_length=128)
DirectPipeline(
    stack,
    "Written",
    model=writer,
    preprocess=asks,
    postprocess=Postprocess.text(tokenizer=tokenizer, item_stop=True),
    **data,
)
TextStream(stack, "TextStream", model=writer, preprocess=asks, tokenizer=tokenizer).grant_invoke(caller)

sender = iam.User(stack, "Sender", user_name="sender")
for pipeline in (texts, clicks, users, lines, numbers):
    pipeline.grant_put(sender)
archives.grant_read_results(sender)

# The other stack is full.
prototypes = Path(app.outdir) / "prototypes.npy"
np.save(prototypes, np.array([[1, 0], [1, 1], [0, 1]], np.float32))
media = cdk.Stack(app, "Media")

# The same recordings, by an encoder that hears and a decoder that writes. Both are of one folder, as a user has them.
listener = shutil.copytree(DIGITS, Path(app.outdir) / "listener", ignore=shutil.ignore_patterns("*.lock.json"))
shutil.copytree(Path(__file__).with_name("listener"), listener, dirs_exist_ok=True)
DirectPipeline(
    media,
    "Dictation",
    model=ModelArtifact(media, "Listener", recipe=listener / "recipe.py"),
    preprocess=hears,
    postprocess=Postprocess.text(vocabulary=listener / "vocabulary.txt"),
    **data,
)

# Where in a recording someone speaks: a network with a state, from window to window.
DirectPipeline(
    media,
    "Voices",
    model=ModelArtifact(media, "Voice", recipe=Path(__file__).with_name("voice") / "recipe.py"),
    preprocess=hears,
    postprocess=Postprocess.segments(window_seconds=256 / 8_000),
    **data,
)

# The language model decides in one pass, and the small model's vector is close to that of a label.
DirectPipeline(
    media,
    "Decisions",
    model=ModelArtifact(media, "Decider", recipe=WRITER / "decision.py"),
    preprocess=asks,
    postprocess=Postprocess.classification(labels=["j", "Y"]),
    **data,
)
DirectPipeline(
    media,
    "Labels",
    model=ModelArtifact(media, "Sums", recipe=STAGES / "model" / "recipe.py"),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    postprocess=Postprocess.nearest(prototypes=prototypes, labels=["first", "both", "second"], scale=10),
    **data,
)

# Videos, whose frames are pictures of red squares.
colours = ModelArtifact(media, "Colours", recipe=STAGES / "colours" / "recipe.py")
for name, trigger, items in (
    ("Films", "Videos", ItemsFormat.video(every=2, max_seconds=60)),
    ("Cameras", "Recordings", ItemsFormat.motion_jpeg(every=2)),
):
    InferencePipeline(
        media,
        name,
        model=colours,
        trigger=S3ItemsTrigger(media, trigger, items=items, max_receive_count=1, **data),
        preprocess=Preprocess.image(size=32, resize="stretch", interpolation="nearest"),
        postprocess=Postprocess.detection(labels=["red", "green"], head=YoloHead(output="boxes"), min_score=0.6),
        execution=Execution.fused(),
        **data,
    )
app.synth()
