"""The trigger for objects with many items: what it creates and grants, how it is watched, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of

from cdk_inference import (
    AuditLog,
    DirectPipeline,
    Inference,
    InferencePipeline,
    ItemsFormat,
    ModelArtifact,
    Preprocess,
    PropError,
    Route,
    Routing,
    S3ItemsTrigger,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_cdk import Stack


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The template of a pipeline with all that the trigger can do, and of somebody who reads its results."""
    stack = make_stack()
    trigger = S3ItemsTrigger(
        stack,
        "Lines",
        items=ItemsFormat.json_lines(item_id="order.id"),
        prefix="in/",
        suffixes=[".jsonl"],
        write_results=True,
        max_wait=cdk.Duration.hours(2),
        max_concurrency=7,
        encryption_key=kms.Key(stack, "Key"),
    )
    pipeline = InferencePipeline(
        stack,
        "Photos",
        model=ModelArtifact(stack, "Model", recipe=RECIPE),
        preprocess=Preprocess.image(size=224),
        trigger=trigger,
    )
    pipeline.add_alarms()
    pipeline.add_dashboard()
    pipeline.on_result("Told")
    pipeline.grant_put(iam.User(stack, "Uploader"))
    trigger.grant_read_results(iam.User(stack, "Reader"))
    return Template.from_stack(stack).to_json()


@pytest.fixture
def trigger(stack: Stack) -> Callable[..., S3ItemsTrigger]:
    def make(**props: Any) -> S3ItemsTrigger:
        return S3ItemsTrigger(stack, "Lines", **{"items": ItemsFormat.json_lines(), **props})

    return make


def one(template: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Return the properties of the one resource of a type whose logical id begins so."""
    (found,) = [each["Properties"] for logical, each in resources(template, kind).items() if logical.startswith(name)]
    return dict(found)


def granted(template: dict[str, Any], name: str) -> set[tuple[str, str]]:
    """Return the actions of a policy, but those of logs and traces, with the places of their resources."""
    return {
        (action, place(resource))
        for statement in one(template, "AWS::IAM::Policy", name)["PolicyDocument"]["Statement"]
        for action in several(statement["Action"])
        for resource in several(statement["Resource"])
        if not action.startswith(("logs:", "xray:"))
    }


def several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def place(resource: Any) -> str:
    """Return the first of `PARTS` that an ARN names, and the folder of it."""
    text = json.dumps(resource)
    return "/".join([next(name for name in PARTS if f'"{name}' in text), *(one for one in FOLDERS if one in text)])


PARTS = (
    "LinesObjectsInbox",
    "LinesObjectsQueue",
    "LinesObjectsDeadLetterQueue",
    "LinesObjectsUndeliveredQueue",
    "LinesQueue",
    "LinesDeadLetterQueue",
    "LinesItems",
    "LinesWorkflow",
    "LinesSplitChunk",
    "LinesCollect",
    "PhotosResults",
    "PhotosKey",
    "PhotosWork",
    "Key",
)
FOLDERS = ("in/*", "splits/*", "items/*", "results/*", "tensors/*")
READ = {
    ("kms:Decrypt", "Key"),
    ("s3:GetObject", "LinesObjectsInbox/in/*"),
    ("s3:GetObjectVersion", "LinesObjectsInbox/in/*"),
    ("s3:ListBucket", "LinesObjectsInbox"),
}
CHUNK = READ | {
    ("kms:GenerateDataKey", "Key"),
    ("sqs:SendMessage", "LinesQueue"),
    *(
        (f"s3:{verb}", f"LinesItems/{folder}/*")
        for verb in ("PutObject", "AbortMultipartUpload")
        for folder in ("splits", "items")
    ),
}
RIGHTS = {
    "LinesSplitChunkRole": CHUNK,
    "LinesSplitRole": CHUNK
    | {(f"sqs:{verb}", "LinesObjectsQueue") for verb in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")}
    | {
        ("sqs:SendMessage", "LinesObjectsQueue"),
        ("sqs:SendMessage", "LinesObjectsDeadLetterQueue"),
        ("states:StartExecution", "LinesWorkflow"),
        ("states:DescribeExecution", "LinesWorkflow"),
    },
    "LinesCollectRole": {
        ("kms:Decrypt", "Key"),
        ("kms:GenerateDataKey", "Key"),
        ("kms:Decrypt", "PhotosKey"),
        ("dynamodb:BatchGetItem", "PhotosResults"),
        ("s3:ListBucket", "LinesItems"),
        ("s3:GetObject", "LinesItems/splits/*"),
        ("s3:GetObject", "LinesItems/results/*"),
        ("s3:PutObject", "LinesItems/results/*"),
        ("s3:AbortMultipartUpload", "LinesItems/results/*"),
        ("s3:ListMultipartUploadParts", "LinesItems/results/*"),
    },
    "LinesWorkflowStateMachineRole": {
        ("kms:Decrypt", "Key"),
        ("kms:GenerateDataKey", "Key"),
        ("s3:GetObject", "LinesItems"),
        ("lambda:InvokeFunction", "LinesSplitChunk"),
        ("lambda:InvokeFunction", "LinesCollect"),
        ("sqs:SendMessage", "LinesObjectsDeadLetterQueue"),
    },
    "PhotosPreprocessRole": READ
    | {
        ("s3:GetObject", "LinesItems/items/*"),
        ("s3:ListBucket", "LinesItems"),
        ("kms:Decrypt", "PhotosKey"),
        ("kms:GenerateDataKey", "PhotosKey"),
        ("s3:PutObject", "PhotosWork/tensors/*"),
    },
    "Uploader": {
        ("kms:Decrypt", "Key"),
        ("kms:GenerateDataKey", "Key"),
        ("s3:PutObject", "LinesObjectsInbox/in/*"),
    },
    "Reader": {
        ("kms:Decrypt", "Key"),
        ("s3:GetObject", "LinesItems/results/*"),
        ("s3:ListBucket", "LinesItems"),
    },
}


@pytest.mark.parametrize("name", RIGHTS)
def test_everybody_may_do_what_their_work_needs_and_nothing_else(template, name: str):
    assert granted(template, name) == RIGHTS[name]


def test_objects_and_items_have_queues_of_their_own(template):
    (mapping,) = resources(template, "AWS::Lambda::EventSourceMapping").values()
    assert mapping["Properties"]["BatchSize"] == 1
    assert mapping["Properties"]["ScalingConfig"] == {"MaximumConcurrency": 7}
    assert place(mapping["Properties"]["EventSourceArn"]) == "LinesObjectsQueue"
    pipe = one(template, "AWS::Pipes::Pipe", "Lines")
    assert place(pipe["Source"]) == "LinesQueue"
    assert '"item"' not in pipe["TargetParameters"]["InputTemplate"]  # the body says it
    objects = one(template, "AWS::SQS::Queue", "LinesObjectsQueue")
    assert objects["VisibilityTimeout"] == 15 * 60 + 30
    for queue in (objects, one(template, "AWS::SQS::Queue", "LinesQueue")):
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 1000  # a function and a workflow say what a dead letter is


def test_the_functions_know_what_to_do(template):
    split, chunk, collect = (
        one(template, "AWS::Lambda::Function", name)["Environment"]["Variables"]
        for name in ("LinesSplitFunction", "LinesSplitChunkFunction", "LinesCollectFunction")
    )
    assert json.loads(split["ITEMS_FORMAT"]) == {"kind": "json_lines", "item_id": "order.id"}
    assert split["ITEMS_FORMAT"] == chunk["ITEMS_FORMAT"]
    assert int(split["INLINE_BYTES"]) * 10 + 10 * 700 <= 262_144
    assert split["CHUNK_BYTES"] == str(16 * 1024 * 1024)
    assert split["ALWAYS_WORKFLOW"] == "1"
    assert one(template, "AWS::Lambda::Function", "LinesSplitFunction")["RecursiveLoop"] == "Allow"
    assert "RecursiveLoop" not in one(template, "AWS::Lambda::Function", "LinesSplitChunkFunction")
    assert split["MAX_RECEIVE_COUNT"] == "10"
    assert "STATE_MACHINE_ARN" not in chunk  # the state machine names it already
    assert json.loads(collect["ROW_VERSIONS"]) == json.loads(split["ROW_VERSIONS"]) == ["unbuilt"]
    assert "PhotosResults" in json.dumps(collect["RESULTS_TABLE"])


def test_chunks_are_mapped_over_and_results_are_waited_for(template):
    machine = one(template, "AWS::StepFunctions::StateMachine", "Lines")
    assert machine["StateMachineType"] == "STANDARD"
    parts = machine["DefinitionString"]["Fn::Join"][1]
    states = states_of(json.loads("".join(part if isinstance(part, str) else "TOKEN" for part in parts)))
    split = states["Split"]
    assert split["MaxConcurrency"] == 7
    assert split["ItemReader"]["ReaderConfig"] == {"InputType": "JSONL"}
    assert split["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
    broken = [retry for retry in states["Split chunk"]["Retry"] if "CorruptObjectError" in retry["ErrorEquals"]]
    assert [retry["MaxAttempts"] for retry in broken] == [0]
    over = states["All chunks split?"]["Choices"][1]
    assert [one["ErrorEquals"] for one in split["Catch"]] == [["States.DataLimitExceeded"], ["States.ALL"]]
    assert (over["Condition"], over["Next"]) == ("{% $superseded %}", "Done")
    for name, waits in (("Split chunk", "Wait for services"), ("Collect", "Wait for services to write")):
        assert states[name]["Catch"][0]["Next"] == f"{waits}?"
        (bounded,) = states[f"{waits}?"]["Choices"]
        assert (bounded["Condition"], bounded["Next"]) == ("{% $pauses < 120 %}", waits)
        assert (states[waits]["Seconds"], states[waits]["Next"]) == (60, name)
    assert states["Wait for services to write?"]["Default"] == "Object failed"
    assert states["Collect"]["Arguments"]["Payload"]["late"].endswith("> 7200000 %}")
    sent = states["Send dead letter"]["Arguments"]
    assert sent["MessageBody"] == "{% $message %}"
    assert set(sent["MessageAttributes"]) == {"Error", "Cause"}
    assert states["Failed"]["Type"] == "Fail"


def test_results_stay_and_what_is_only_needed_meanwhile_expires(template):
    bucket = one(template, "AWS::S3::Bucket", "LinesItems")
    expiring = {rule["Prefix"]: rule["ExpirationInDays"] for rule in bucket["LifecycleConfiguration"]["Rules"][1:]}
    assert expiring == {"splits/": 30, "items/": 30}
    assert "aws:kms" in json.dumps(bucket["BucketEncryption"])
    assert bucket["PublicAccessBlockConfiguration"]["BlockPublicAcls"] is True


def test_objects_are_watched_besides_items(template):
    alarms = {
        name.removeprefix("PhotosAlarms")[:-8]: each["Properties"]
        for name, each in resources(template, "AWS::CloudWatch::Alarm").items()
    }
    assert {"OldObjects", "SplittingFails", "SplitFails", "ChunkFails", "CollectFails"} < set(alarms)
    watched = {
        "ObjectDeadLetters": "LinesObjectsDeadLetterQueue",
        "DeadLetters": "LinesDeadLetterQueue",
        "Undelivered": "LinesObjectsUndeliveredQueue",
    }
    for name, queue in watched.items():
        (dimension,) = alarms[name]["Dimensions"]
        assert place(dimension["Value"]) == queue
    section = "docs/operate/runbook.md#objects-that-cannot-be-taken-apart"
    assert {name for name, alarm in alarms.items() if alarm["AlarmDescription"].endswith(section)} == {
        "ObjectDeadLetters",
        "SplittingFails",
    }
    dashboard = json.dumps(resources(template, "AWS::CloudWatch::Dashboard"))
    for title in ("Objects: dead letters", "Splitting of large objects, ms", "Split, ms", "Chunk, ms"):
        assert title in dashboard
    (rule,) = [
        each["Properties"]["EventPattern"]
        for name, each in resources(template, "AWS::Events::Rule").items()
        if name.startswith("PhotosTold")
    ]
    assert '"s3:' in json.dumps(rule["detail"]["bucket"])


def test_small_objects_need_no_state_machine_and_no_key(stack, trigger, pipeline):
    pipeline(trigger=trigger(chunk_size=cdk.Size.kibibytes(1), batch_size=32))
    names = [name for name in resources(stack, "AWS::Lambda::Function") if name.startswith("Lines")]
    assert len(names) == 2
    split = one(Template.from_stack(stack).to_json(), "AWS::Lambda::Function", "LinesSplitFunction")
    variables = split["Environment"]["Variables"]
    assert "ALWAYS_WORKFLOW" not in variables
    assert variables["INLINE_BYTES"] == str(262_144 // 32 - 700)


def test_a_direct_pipeline_takes_items_without_a_pipe(stack, trigger, model):
    made = trigger()
    DirectPipeline(stack, "Direct", model=model, preprocess=Preprocess.image(size=224), trigger=made)
    mappings = [each["Properties"] for each in resources(stack, "AWS::Lambda::EventSourceMapping").values()]
    assert {place(each["EventSourceArn"]) for each in mappings} == {"LinesObjectsQueue", "LinesQueue"}
    assert not resources(stack, "AWS::Pipes::Pipe")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ItemsFormat.json_lines(), {"kind": "json_lines"}),
        (ItemsFormat.json_lines(item_id="$.a.ids[0].n"), {"kind": "json_lines", "item_id": "a.ids.0.n"}),
        (
            ItemsFormat.csv(item_id="order id", delimiter=";", encoding="latin-1"),
            {"kind": "csv", "item_id": "order id", "delimiter": ";", "encoding": "latin-1"},
        ),
        (ItemsFormat.parquet(columns=["a", "b"]), {"kind": "parquet", "columns": ["a", "b"]}),
        (ItemsFormat.zip(suffixes=[".JPG"]), {"kind": "zip", "suffixes": [".jpg"]}),
        (ItemsFormat.tar(), {"kind": "tar", "suffixes": []}),
        (ItemsFormat.motion_jpeg(every=25), {"kind": "motion_jpeg", "every": 25}),
        (
            ItemsFormat.video(every=25, max_seconds=60),
            {"kind": "video", "every": 25, "max_seconds": 60, "max_pixels": 4096 * 2160},
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, ItemsFormat) else "",
)
def test_a_format_says_what_its_reader_must_know(made: ItemsFormat, expected: dict[str, Any]):
    code = made.bind("module.handler")
    assert json.loads(code.environment["ITEMS_FORMAT"]) == expected
    lists = {"parquet": "split-parquet", "video": "split-video"}
    assert code.package.runtime_requirements == lists.get(made.kind, "sagemaker")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ItemsFormat.json_lines(item_id="order id"), "item_id must be a path such as 'order.id'"),
        (lambda: ItemsFormat.json_lines(item_id=""), "item_id must be a path"),
        (lambda: ItemsFormat.csv(item_id=""), "item_id must be the name of a column"),
        (lambda: ItemsFormat.csv(delimiter="||"), "delimiter must be one ASCII character"),
        (lambda: ItemsFormat.csv(delimiter='"'), "delimiter must be one ASCII character"),
        (lambda: ItemsFormat.csv(encoding="utf-16"), "encoding must be one of Python's in which ASCII takes one byte"),
        (lambda: ItemsFormat.csv(encoding="none"), "encoding must be"),
        (lambda: ItemsFormat.parquet(columns=[]), "columns must be unique names"),
        (lambda: ItemsFormat.parquet(columns=["a", "a"]), "columns must be unique names"),
        (lambda: ItemsFormat.parquet(item_id="id", columns=["a"]), "columns must contain item_id"),
        (lambda: ItemsFormat.motion_jpeg(every=0), "every must be at least 1, got 0"),
        (lambda: ItemsFormat.video(every=0), "every must be at least 1, got 0"),
        (lambda: ItemsFormat.video(max_seconds=0), "max_seconds must be above 0 and at most 86,400 seconds, got 0"),
        (lambda: ItemsFormat.video(max_pixels=10**9), "max_pixels must be 1 to 35,389,440, got 1,000,000,000"),
        (lambda: ItemsFormat.zip(suffixes=["jpg"]), "suffixes must be of the form '.jpg'"),
    ],
)
def test_formats_that_cannot_be_meant_are_refused(make: Callable[[], ItemsFormat], message: str):
    with pytest.raises(PropError, match=message):
        make()


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"batch_size": 33}, "batch_size must be"),
        ({"max_receive_count": 0}, "max_receive_count must be"),
        ({"max_concurrency": 1}, "max_concurrency must be 2 to 1,000"),
        ({"chunk_size": cdk.Size.bytes(100)}, "chunk_size must be 1,024 to 1,073,741,824 bytes, got 100"),
        ({"max_wait": cdk.Duration.seconds(59)}, "max_wait must be 60 to 604,800 seconds"),
        ({"prefix": "a*"}, "prefix must not contain"),
        ({"suffixes": ["jsonl"]}, "suffixes must be of the form"),
        ({"items": "json_lines"}, "items must be an ItemsFormat, .* use ItemsFormat.json_lines"),
    ],
)
def test_props_that_cannot_work_are_refused(trigger, props: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        trigger(**props)


def test_what_needs_whole_objects_is_refused(stack, trigger, pipeline, model):
    items = trigger()
    with pytest.raises(PropError, match="must not wait for a GPU"):
        pipeline(trigger=items, inference=Inference.gpu())
    routes = [Route(name, model=model, preprocess=Preprocess.image(size=224)) for name in ("a", "b")]
    routing = Routing.by_tag("class", {"gold": routes[0]}, otherwise=routes[1])
    with pytest.raises(PropError, match="routing must not ask for metadata or tags"):
        InferencePipeline(stack, "Routed", routing=routing, trigger=items)


def test_what_needs_another_trigger_is_refused(stack, trigger, pipeline):
    made = pipeline(trigger=trigger())
    with pytest.raises(PropError, match="must be an S3Trigger for a backfill, got S3ItemsTrigger; copy an object"):
        made.add_backfill()
    with pytest.raises(PropError, match="trail must be of pipelines for objects"):
        made.audit(AuditLog(stack, "Log", trail=cloudtrail.Trail(stack, "Trail")))
    api = made.add_rest_api()
    with pytest.raises(PropError, match="must be a QueueTrigger for POST /items, got S3ItemsTrigger; put objects"):
        api.add_items()
    api.add_uploads({"application/jsonl": ".jsonl"})  # of objects, whose items are scored
