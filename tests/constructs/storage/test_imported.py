"""The results table, the work bucket and the trigger of another stack, imported by name or ARN."""

from __future__ import annotations

import json

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from aws_cdk.assertions import Annotations, Match
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Execution,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    ResultsTable,
    S3Trigger,
    SageMakerAsync,
    WorkBucket,
)

ARN = "arn:aws:{}:eu-west-1:111122223333:{}"
KEY = ARN.format("kms", "key/1234")


def imported_key(stack):
    return kms.Key.from_key_arn(stack, "TheirKey", KEY)


def imported_trigger(stack, **props):
    names = {"queue": "q", "dead_letter_queue": "dead_letter", "undelivered_queue": "undelivered"}
    queues = {prop: sqs.Queue.from_queue_arn(stack, prop, ARN.format("sqs", name)) for prop, name in names.items()}
    bucket = s3.Bucket.from_bucket_name(stack, "TheirBucket", "their-photos")
    return S3Trigger.from_trigger_attributes(stack, "Trigger", bucket=bucket, **{**queues, **props})


def statements(stack, prefix=""):
    """Return the actions by resource of all policies whose logical id begins like this."""
    found = {}
    for name, policy in resources(stack, "AWS::IAM::Policy").items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"] if name.startswith(prefix) else ():
            actions = statement["Action"]
            where = statement["Resource"]
            for resource in where if isinstance(where, list) else [where]:
                found.setdefault(json.dumps(resource), set()).update([actions] if isinstance(actions, str) else actions)
    return found


def build(stack, **props):
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), **props)


# --- the results table ---


@pytest.mark.parametrize(
    "make",
    [
        lambda stack: ResultsTable.from_table_name(stack, "Theirs", "rows"),
        lambda stack: ResultsTable.from_table_arn(stack, "Theirs", ARN.format("dynamodb", "table/rows")),
    ],
    ids=["name", "arn"],
)
def test_a_pipeline_writes_into_the_table_of_another_stack(stack, make):
    theirs = make(stack)
    made = build(stack, results=theirs)
    assert made.results is theirs
    assert not resources(stack, "AWS::DynamoDB::GlobalTable")
    written = [resource for resource, actions in statements(stack).items() if "dynamodb:PutItem" in actions]
    assert len(written) == 1
    assert "table/rows" in written[0]
    tables = [
        function["Properties"]["Environment"]["Variables"].get("RESULTS_TABLE")
        for function in resources(stack, "AWS::Lambda::Function").values()
    ]
    assert "rows" in tables


def test_grants_and_metrics_of_an_imported_table(stack):
    theirs = ResultsTable.from_table_attributes(
        stack, "Theirs", table_arn=ARN.format("dynamodb", "table/rows"), encryption_key=imported_key(stack)
    )
    theirs.grant_read_data(iam.User(stack, "Reader"))
    theirs.grant_write_rows(iam.User(stack, "Writer"))
    theirs.metric_throttled_writes().create_alarm(stack, "Alarm", threshold=1, evaluation_periods=1)
    table, key = json.dumps(ARN.format("dynamodb", "table/rows")), json.dumps(KEY)
    assert {"dynamodb:GetItem", "dynamodb:Query"} <= statements(stack, "Reader")[table]
    assert statements(stack, "Reader")[key] == {"kms:Decrypt"}
    assert statements(stack, "Writer")[table] == {"dynamodb:PutItem"}
    assert "kms:GenerateDataKey" in statements(stack, "Writer")[key]
    (alarm,) = resources(stack, "AWS::CloudWatch::Alarm").values()
    assert alarm["Properties"]["Dimensions"] == [{"Name": "TableName", "Value": "rows"}]


# --- the work bucket ---


@pytest.mark.parametrize(
    "make",
    [
        lambda stack: WorkBucket.from_bucket_name(stack, "Theirs", "tensors-of-all"),
        lambda stack: WorkBucket.from_bucket_arn(stack, "Theirs", "arn:aws:s3:::tensors-of-all"),
    ],
    ids=["name", "arn"],
)
def test_stages_use_the_work_bucket_of_another_stack(stack, make):
    theirs = make(stack)
    made = build(stack, execution=Execution.staged(work=theirs))
    assert made.stages.work is theirs
    assert len(resources(stack, "AWS::S3::Bucket")) == 1  # the inbox
    (granted,) = [r for r in statements(stack) if "tensors-of-all" in r]
    assert statements(stack)[granted] == {"s3:GetObject", "s3:PutObject"}
    names = {
        function["Properties"]["Environment"]["Variables"]["WORK_BUCKET"]
        for function in resources(stack, "AWS::Lambda::Function").values()
    }
    assert names == {"tensors-of-all"}


def test_grants_of_an_imported_work_bucket_include_its_key(stack):
    theirs = WorkBucket.from_bucket_attributes(
        stack, "Theirs", bucket_name="tensors-of-all", encryption_key=imported_key(stack)
    )
    theirs.grant_read(iam.User(stack, "Reader"))
    theirs.grant_write(iam.User(stack, "Writer"))
    assert statements(stack, "Reader")[json.dumps(KEY)] == {"kms:Decrypt"}
    assert statements(stack, "Writer")[json.dumps(KEY)] == {"kms:Decrypt", "kms:GenerateDataKey"}


# --- the trigger ---


def test_a_pipeline_takes_the_messages_of_another_stacks_trigger(stack):
    theirs = imported_trigger(stack, prefix="in/", encryption_key=imported_key(stack), max_receive_count=4)
    made = build(stack, trigger=theirs)
    assert made.trigger is theirs
    assert not resources(stack, "AWS::SQS::Queue")
    assert not resources(stack, "AWS::Events::Rule")
    assert len(resources(stack, "AWS::S3::Bucket")) == 1  # for tensors
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert pipe["Properties"]["Source"] == ARN.format("sqs", "q")
    (role,) = [r for name, r in resources(stack, "AWS::IAM::Role").items() if "PipeRole" in name]
    assert ARN.format("sqs", "q") in json.dumps(role["Properties"]["Policies"])
    allowed = statements(stack)
    assert allowed[json.dumps(ARN.format("sqs", "dead_letter"))] == {"sqs:SendMessage"}
    (read,) = [actions for resource, actions in allowed.items() if "their-photos/in/*" in resource]
    assert read == {"s3:GetObject", "s3:GetObjectVersion"}
    assert "kms:GenerateDataKey" in allowed[json.dumps(KEY)]
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    assert ".receive_count) >= 4" in json.dumps(machine["Properties"]["DefinitionString"])


def test_grants_and_metrics_of_an_imported_trigger(stack):
    theirs = imported_trigger(stack, prefix="in/")
    theirs.grant_put(iam.User(stack, "Uploader"))
    metrics = [
        theirs.metric_queue_depth(),
        theirs.metric_oldest_message_age(),
        theirs.metric_dead_letters(),
        theirs.metric_undelivered(),
    ]
    for number, metric in enumerate(metrics):
        metric.create_alarm(stack, f"Alarm{number}", threshold=1, evaluation_periods=1)
    assert list(statements(stack, "Uploader").values()) == [{"s3:PutObject"}]
    alarms = resources(stack, "AWS::CloudWatch::Alarm").values()
    assert [a["Properties"]["Dimensions"][0]["Value"] for a in alarms] == ["q", "q", "dead_letter", "undelivered"]


def test_what_the_policy_of_an_imported_queue_must_allow_is_a_warning(stack):
    build(stack, trigger=imported_trigger(stack), inference=Inference.gpu(backend=SageMakerAsync()))
    Annotations.from_stack(stack).has_warning(
        "*", Match.string_like_regexp("imported queue Stack/undelivered_queue must allow events.amazonaws.com")
    )


def test_a_trigger_of_the_same_stack_is_shared_with_what_else_there_is(stack):
    trigger = S3Trigger(stack, "Mine", batch_size=4)
    build(stack, trigger=trigger, stage_timeout=cdk.Duration.seconds(60))
    (queue,) = [q for q in resources(stack, "AWS::SQS::Queue").values() if "RedrivePolicy" in q["Properties"]]
    assert queue["Properties"]["RedrivePolicy"]["maxReceiveCount"] == 1000


# --- a second stack ---


def test_one_stack_owns_what_the_pipeline_of_another_uses():
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    owner, user = cdk.Stack(app, "Owner"), cdk.Stack(app, "User")
    theirs = S3Trigger(owner, "Trigger", max_receive_count=1000)
    results, work = ResultsTable(owner, "Results"), WorkBucket(owner, "Work")
    trigger = S3Trigger.from_trigger_attributes(
        user,
        "Trigger",
        bucket=s3.Bucket.from_bucket_arn(user, "Bucket", theirs.bucket.bucket_arn),
        queue=theirs.queue,
        dead_letter_queue=theirs.dead_letter_queue,
        undelivered_queue=theirs.undelivered_queue,
    )
    build(
        user,
        trigger=trigger,
        results=ResultsTable.from_table_arn(user, "Results", results.table.table_arn),
        execution=Execution.staged(work=WorkBucket.from_bucket_arn(user, "Work", work.bucket.bucket_arn)),
    )
    template = app.synth().get_stack_by_name("User").template
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert not kinds & {"AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::DynamoDB::GlobalTable", "AWS::Events::Rule"}
    assert "Owner:ExportsOutput" in json.dumps(template)


# --- what is refused ---


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"prefix": "in/"}, "prefix must be left out with a trigger, got both; give it to the trigger"),
        ({"batch_size": 8}, "batch_size must be left out with a trigger"),
        ({"max_receive_count": 3}, "max_receive_count must be left out"),
        ({"max_batching_window": cdk.Duration.seconds(2)}, "max_batching_window must be left out"),
        ({"suffixes": [".png"]}, "suffixes must be left out"),
    ],
)
def test_props_of_a_trigger_that_is_given_fail(stack, props, message):
    with pytest.raises(PropError, match=message):
        build(stack, trigger=imported_trigger(stack), **props)


@pytest.mark.parametrize(("names", "got"), [({}, "none"), ({"name": "a", "arn": "arn:aws:s3:::a"}, "both")])
def test_a_name_and_an_arn_together_and_neither_fail(stack, names, got):
    with pytest.raises(PropError, match=f"table_arn or table_name must be given, got {got}"):
        ResultsTable.from_table_attributes(stack, "A", **{f"table_{name}": value for name, value in names.items()})
    with pytest.raises(PropError, match=f"bucket_arn or bucket_name must be given, got {got}"):
        WorkBucket.from_bucket_attributes(stack, "B", **{f"bucket_{name}": value for name, value in names.items()})


def test_what_is_in_another_region_fails():
    env = cdk.Environment(account="111122223333", region="us-east-1")
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack", env=env)
    theirs = ResultsTable.from_table_arn(stack, "Theirs", ARN.format("dynamodb", "table/rows"))
    with pytest.raises(
        PropError, match="results must be in the Region of stack 'Stack', us-east-1, got one in eu-west-1"
    ):
        build(stack, results=theirs)


def test_a_prefix_that_policies_cannot_name_fails():
    with pytest.raises(PropError, match="prefix must consist of printable Latin-1"):
        imported_trigger(make_stack(), prefix="写真/")
