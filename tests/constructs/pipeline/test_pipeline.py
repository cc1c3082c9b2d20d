"""The template of a pipeline."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Annotations, Match, Template
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of

from cdk_inference import (
    Execution,
    Inference,
    InferencePipeline,
    LambdaPlatform,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    ResultsTable,
    S3Trigger,
)

ACCOUNT_KEY_STATEMENT = "kms:*"  # the statement by which a key's policy leaves access to IAM


@pytest.fixture(scope="session")
def template(made_once):
    """The template of a pipeline with the defaults; tests only read it."""

    def make(folder):
        stack = make_stack()
        model = ModelArtifact(stack, "Model", recipe=RECIPE)
        InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))
        (folder / "template.json").write_text(json.dumps(Template.from_stack(stack).to_json()), "utf-8")

    return json.loads((made_once("default template", make) / "template.json").read_text("utf-8"))


def policies(template):
    """Every policy document of a template, by the logical id of what carries it."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if "PolicyDocument" in properties:
            yield name, resource["Type"], properties["PolicyDocument"]
        for inline in properties.get("Policies", []):
            yield name, resource["Type"], inline["PolicyDocument"]
        if "KeyPolicy" in properties:
            yield name, resource["Type"], properties["KeyPolicy"]


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_the_whole_template(template, snapshot_json):
    assert template["Resources"] == snapshot_json


def test_data_is_encrypted_with_one_key_of_ours(template):
    (key,) = resources(template, "AWS::KMS::Key")
    arn = {"Fn::GetAtt": [key, "Arn"]}
    for bucket in resources(template, "AWS::S3::Bucket").values():
        (rule,) = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"] == {"KMSMasterKeyID": arn, "SSEAlgorithm": "aws:kms"}
        assert rule["BucketKeyEnabled"] is True
    for queue in resources(template, "AWS::SQS::Queue").values():
        if queue["Metadata"]["cdk-inference"]["role"] == "undelivered-queue":
            # the last resort when EventBridge may not use the key
            assert queue["Properties"]["SqsManagedSseEnabled"] is True
        else:
            assert queue["Properties"]["KmsMasterKeyId"] == arn
    for logs in resources(template, "AWS::Logs::LogGroup").values():
        assert logs["Properties"]["KmsKeyId"] == arn
    (table,) = resources(template, "AWS::DynamoDB::GlobalTable").values()
    assert table["Properties"]["Replicas"][0]["SSESpecification"] == {"KMSMasterKeyId": arn}
    assert resources(template, "AWS::KMS::Key")[key]["Properties"]["EnableKeyRotation"] is True


def test_a_key_of_the_users_is_used_and_none_is_made(stack, pipeline):
    key = kms.Key(stack, "Mine")
    pipeline(encryption_key=key)
    assert len(resources(stack, "AWS::KMS::Key")) == 1
    keys = [queue["Properties"].get("KmsMasterKeyId") for queue in resources(stack, "AWS::SQS::Queue").values()]
    assert keys.count(stack.resolve(key.key_arn)) == 2


def test_an_imported_key_warns_of_the_policy_it_needs(stack, pipeline):
    key = kms.Key.from_key_arn(stack, "Mine", "arn:aws:kms:eu-west-1:111122223333:key/1234")
    pipeline(encryption_key=key)
    Annotations.from_stack(stack).has_warning("/Stack/Photos", Match.string_like_regexp("imported encryption key"))


def test_buckets_are_private_versioned_and_tls_only(template):
    buckets = resources(template, "AWS::S3::Bucket")
    assert len(buckets) == 2
    for bucket in buckets.values():
        assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    (inbox,) = [b for b in buckets.values() if b["Metadata"]["cdk-inference"]["role"] == "inbox"]
    assert inbox["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    denied = [
        statement
        for _, kind, document in policies(template)
        for statement in document["Statement"]
        if kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy")
        and statement["Effect"] == "Deny"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    ]
    assert len(denied) == 5  # two buckets, three queues


def test_no_policy_allows_a_wildcard_action(template):
    wildcards = {
        (name, action)
        for name, _, document in policies(template)
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        if "*" in action
    }
    (key,) = resources(template, "AWS::KMS::Key")
    assert wildcards == {(key, ACCOUNT_KEY_STATEMENT)}


def test_wildcard_resources_are_only_those_aws_offers_no_alternative_to(template):
    found = set()
    for _, kind, document in policies(template):
        for statement in document["Statement"]:
            if kind == "AWS::IAM::Policy" and "*" in as_list(statement["Resource"]):
                found.update(as_list(statement["Action"]))
    assert found == {
        # X-Ray takes no resources
        "xray:PutTraceSegments",
        "xray:PutTelemetryRecords",
        "xray:GetSamplingRules",
        "xray:GetSamplingTargets",
        # nor does the setting up of a workflow's log delivery
        "logs:CreateLogDelivery",
        "logs:GetLogDelivery",
        "logs:UpdateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:DescribeResourcePolicies",
        "logs:DescribeLogGroups",
    }


def test_no_policy_is_managed_and_each_function_has_its_own_role(template):
    roles = resources(template, "AWS::IAM::Role")
    assert not any("ManagedPolicyArns" in role["Properties"] for role in roles.values())
    used = [json.dumps(f["Properties"]["Role"]) for f in resources(template, "AWS::Lambda::Function").values()]
    assert len(used) == len(set(used)) == 3


def test_each_function_may_do_only_its_own_part(stack, pipeline):
    made = pipeline(prefix="in/")
    allowed = {}
    for stage in (made.stages.preprocess, made.stages.inference, made.stages.postprocess):
        role = stack.get_logical_id(stage.role.node.default_child)
        documents = [
            policy["Properties"]["PolicyDocument"]
            for policy in resources(stack, "AWS::IAM::Policy").values()
            if {"Ref": role} in policy["Properties"]["Roles"]
        ]
        statements = chain.from_iterable(document["Statement"] for document in documents)
        actions = set(chain.from_iterable(as_list(statement["Action"]) for statement in statements))
        allowed[stage.node.id] = {a for a in actions if not a.startswith(("logs:", "xray:", "kms:"))}
    assert allowed == {
        "Preprocess": {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:PutObject"},
        "Inference": {"s3:GetObject", "s3:PutObject"},
        "Postprocess": {"s3:GetObject", "dynamodb:PutItem"},
    }


def test_the_queue_takes_messages_of_its_own_rule_only(template):
    (rule,) = resources(template, "AWS::Events::Rule")
    policies = [p["Properties"]["PolicyDocument"] for p in resources(template, "AWS::SQS::QueuePolicy").values()]
    allowed = [s for policy in policies for s in policy["Statement"] if s["Effect"] == "Allow"]
    assert len(allowed) == 2  # the queue, and the one for what the rule cannot deliver
    for allow in allowed:
        assert allow["Action"] == "sqs:SendMessage"
        assert allow["Principal"] == {"Service": "events.amazonaws.com"}
        assert allow["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": [rule, "Arn"]}}}


def test_queues_that_are_no_dead_letter_queues_take_no_dead_letters(template):
    queues = resources(template, "AWS::SQS::Queue").values()
    by_role = {queue["Metadata"]["cdk-inference"]["role"]: queue["Properties"] for queue in queues}
    for role in ("queue", "undelivered-queue"):
        assert by_role[role]["RedriveAllowPolicy"] == {"redrivePermission": "denyAll"}
    assert "RedriveAllowPolicy" not in by_role["dead-letter-queue"]


def test_the_pipes_logs_are_kept_as_long_as_the_others(stack, pipeline):
    pipeline(log_retention=cdk.aws_logs.RetentionDays.ONE_YEAR)
    groups = resources(stack, "AWS::Logs::LogGroup").values()
    assert {group["Properties"]["RetentionInDays"] for group in groups} == {365}


def test_a_trigger_of_another_stack_fails_and_its_bucket_works(stack, pipeline):
    other = cdk.Stack(stack.node.scope, "Other")
    trigger = S3Trigger(other, "Trigger")
    with pytest.raises(PropError, match=r"^Other/Trigger must be in the stack of its workflow, Stack, got Other;"):
        pipeline(trigger=trigger)
    nested = cdk.NestedStack(stack, "Nested")
    trigger = S3Trigger(nested, "Trigger", bucket=trigger.bucket)
    machine = cdk.aws_stepfunctions.StateMachine.from_state_machine_arn(
        other, "Imported", "arn:aws:states:eu-west-1:111111111111:stateMachine:imported"
    )
    assert trigger.add_target(machine).target == machine.state_machine_arn


def test_a_trigger_without_a_pipe_fails_to_measure_one(stack):
    with pytest.raises(PropError, match=r"Stack/Trigger must have a target .* got none; add_target\(\)"):
        S3Trigger(stack, "Trigger").metric_pipe_failed()


def test_functions_trace_and_log_json_for_a_month(template):
    for function in resources(template, "AWS::Lambda::Function").values():
        assert function["Properties"]["TracingConfig"] == {"Mode": "Active"}
        assert function["Properties"]["LoggingConfig"]["LogFormat"] == "JSON"
        assert function["Properties"]["Runtime"] == "python3.14"
        assert function["Properties"]["Architectures"] == ["arm64"]
        assert "ReservedConcurrentExecutions" not in function["Properties"]
    groups = resources(template, "AWS::Logs::LogGroup")
    assert len(groups) == 5  # three functions, the workflow, the pipe
    assert {g["Properties"]["RetentionInDays"] for g in groups.values()} == {30}


def test_concurrency_platform_and_memory_on_request(stack, pipeline):
    pipeline(
        reserved_concurrent_executions=7,
        platform=LambdaPlatform("3.13", "x86_64"),
        inference=Inference.cpu(memory_size=3538),
    )
    functions = resources(stack, "AWS::Lambda::Function").values()
    assert {f["Properties"]["ReservedConcurrentExecutions"] for f in functions} == {7}
    assert {f["Properties"]["Runtime"] for f in functions} == {"python3.13"}
    assert {f["Properties"]["Architectures"][0] for f in functions} == {"x86_64"}
    assert 3538 in {f["Properties"]["MemorySize"] for f in functions}


def test_data_is_retained_by_default(template):
    for kind in ("AWS::S3::Bucket", "AWS::DynamoDB::GlobalTable", "AWS::Logs::LogGroup", "AWS::KMS::Key"):
        for resource in resources(template, kind).values():
            assert resource["DeletionPolicy"] == "RetainExceptOnCreate", kind


def test_data_is_retained_with_a_warning_when_asked_to_go_only_once(stack, pipeline):
    pipeline(removal_policy=cdk.RemovalPolicy.DESTROY)
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("cdk-inference:allow-destroy=true"))


def test_data_goes_when_asked_twice():
    stack = make_stack(**{"cdk-inference:allow-destroy": True})
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    for kind in ("AWS::S3::Bucket", "AWS::DynamoDB::GlobalTable", "AWS::Logs::LogGroup", "AWS::KMS::Key"):
        for resource in resources(stack, kind).values():
            assert resource["DeletionPolicy"] == "Delete", kind


def test_the_table_recovers_and_expires(stack, pipeline):
    pipeline(result_ttl=cdk.Duration.days(30))
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    properties = table["Properties"]
    assert properties["Replicas"][0]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    days = [
        f["Properties"]["Environment"]["Variables"].get("RESULT_TTL_DAYS")
        for f in resources(stack, "AWS::Lambda::Function").values()
    ]
    assert sorted(filter(None, days)) == ["30"]


def test_the_pipe_batches_and_waits(stack, pipeline):
    pipeline(batch_size=16, max_batching_window=cdk.Duration.seconds(5), workflow_timeout=cdk.Duration.seconds(210))
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert pipe["Properties"]["SourceParameters"] == {
        "SqsQueueParameters": {"BatchSize": 16, "MaximumBatchingWindowInSeconds": 5}
    }
    target = pipe["Properties"]["TargetParameters"]
    assert target["StepFunctionStateMachineParameters"] == {"InvocationType": "REQUEST_RESPONSE"}
    (queue,) = [q for q in resources(stack, "AWS::SQS::Queue").values() if "RedrivePolicy" in q["Properties"]]
    assert queue["Properties"]["VisibilityTimeout"] == 210 + 5 + 30
    assert queue["Properties"]["RedrivePolicy"]["maxReceiveCount"] == 1000  # the workflow counts, not the queue


def test_the_workflow_counts_the_tries_of_what_fails_and_may_send_dead_letters_and_nothing_else(stack, pipeline):
    made = pipeline(max_receive_count=4)
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    states = states_of(
        json.loads("".join(p if isinstance(p, str) else json.dumps(p)[1:-1].replace('"', "") for p in pieces))
    )
    assert ".receive_count) >= 4" in states["Choose dead letters"]["Assign"]["dead"]
    dead = stack.get_logical_id(made.trigger.dead_letter_queue.node.default_child)
    assert states["Send dead letter"]["Arguments"]["QueueUrl"] == f"Ref: {dead}"
    statements = [
        (policy["Properties"]["Roles"], statement)
        for policy in resources(stack, "AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "sqs:SendMessage" in statement["Action"]
    ]
    ((roles, statement),) = statements
    assert roles == [{"Ref": stack.get_logical_id(made.workflow.state_machine.role.node.default_child)}]
    assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", {"Fn::GetAtt": [dead, "Arn"]})


@pytest.mark.parametrize(("reserved", "at_once"), [(None, 4), (2, 2), (100, 4)])
def test_no_more_parts_are_scored_at_a_time_than_the_functions_may_run(stack, pipeline, reserved, at_once):
    pipeline(reserved_concurrent_executions=reserved)
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    states = json.loads("".join(piece if isinstance(piece, str) else "." for piece in pieces))["States"]
    assert states["Score parts"]["MaxConcurrency"] == at_once


def test_a_trigger_for_another_workflow_lets_the_queue_count(stack):
    S3Trigger(stack, "Trigger", max_receive_count=7)
    (queue,) = [q for q in resources(stack, "AWS::SQS::Queue").values() if "RedrivePolicy" in q["Properties"]]
    assert queue["Properties"]["RedrivePolicy"]["maxReceiveCount"] == 7


@pytest.mark.parametrize(
    ("props", "keys"),
    [
        ({}, None),
        ({"prefix": "in/"}, [{"prefix": "in/"}]),
        ({"suffixes": [".jpg"]}, [{"wildcard": "*.JPG"}, {"wildcard": "*.jpg"}]),
        ({"prefix": "in/", "suffixes": [".Png"]}, [{"wildcard": f"in/*{s}"} for s in (".PNG", ".Png", ".png")]),
        ({"prefix": "a\\b", "suffixes": [".gif"]}, [{"wildcard": "a\\\\b*.GIF"}, {"wildcard": "a\\\\b*.gif"}]),
    ],
)
def test_the_rule_picks_keys(stack, pipeline, props, keys):
    pipeline(**props)
    (rule,) = resources(stack, "AWS::Events::Rule").values()
    detail = rule["Properties"]["EventPattern"]["detail"]
    assert detail.get("object") == (None if keys is None else {"key": keys})


def test_an_imported_bucket_is_read_and_not_changed(stack, pipeline):
    pipeline(bucket=s3.Bucket.from_bucket_name(stack, "Inbox", "my-photos"))
    assert len(resources(stack, "AWS::S3::Bucket")) == 1  # the work bucket
    (rule,) = resources(stack, "AWS::Events::Rule").values()
    assert rule["Properties"]["EventPattern"]["detail"]["bucket"] == {"name": ["my-photos"]}
    assert "custom-resource" not in json.dumps(Template.from_stack(stack).to_json()).lower()


def test_a_bucket_of_the_users_is_read_with_its_own_key(stack, pipeline):
    theirs = kms.Key(stack, "Theirs")
    made = pipeline(bucket=s3.Bucket(stack, "Inbox", encryption_key=theirs))
    role = stack.get_logical_id(made.stages.preprocess.role.node.default_child)
    (policy,) = [
        p["Properties"]["PolicyDocument"]
        for p in resources(stack, "AWS::IAM::Policy").values()
        if {"Ref": role} in p["Properties"]["Roles"]
    ]
    decrypt = [s for s in policy["Statement"] if "kms:Decrypt" in as_list(s["Action"])]
    assert stack.resolve(theirs.key_arn) in [s["Resource"] for s in decrypt]


def test_a_reader_may_read_rows_and_nothing_else(stack, pipeline):
    reader = iam.User(stack, "Reader")
    pipeline().results.grant_read_data(reader)
    (policy,) = [p for n, p in resources(stack, "AWS::IAM::Policy").items() if n.startswith("Reader")]
    actions = {a for s in policy["Properties"]["PolicyDocument"]["Statement"] for a in as_list(s["Action"])}
    assert actions == {
        "dynamodb:GetItem",
        "dynamodb:BatchGetItem",
        "dynamodb:Query",
        "dynamodb:Scan",
        "dynamodb:DescribeTable",
        "kms:Decrypt",
    }


def test_a_writer_may_put_objects_under_the_prefix(stack, pipeline):
    writer = iam.User(stack, "Writer")
    pipeline(prefix="in/").grant_put(writer)
    (policy,) = [p for n, p in resources(stack, "AWS::IAM::Policy").items() if n.startswith("Writer")]
    statements = policy["Properties"]["PolicyDocument"]["Statement"]
    (put,) = [s for s in statements if s["Action"] == "s3:PutObject"]
    assert put["Resource"]["Fn::Join"][1][1] == "/in/*"


def test_alarms_can_be_added_on_every_metric(stack, pipeline):
    made = pipeline()
    metrics = {
        "Succeeded": made.metric_succeeded(),
        "Rejected": made.metric_rejected(),
        "Failed": made.metric_failed(),
        "Retried": made.metric_retried(),
        "Latency": made.metric_latency(),
        "ApproximateNumberOfMessagesVisible": made.metric_dead_letters(),
        "ApproximateAgeOfOldestMessage": made.trigger.metric_oldest_message_age(),
        "ExecutionsFailed": made.workflow.metric_failed(),
        "ExecutionsTimedOut": made.workflow.metric_timed_out(),
        "ExecutionTime": made.workflow.metric_time(),
        "ExecutionFailed": made.trigger.metric_pipe_failed(),
        "ExecutionThrottled": made.trigger.metric_pipe_throttled(),
        "Errors": made.stages.inference.metric_errors(),
        "Throttles": made.stages.inference.metric_throttles(),
        "Duration": made.stages.inference.metric_duration(),
        "Invocations": made.stages.preprocess.metric_invocations(),
        "WriteThrottleEvents": made.results.metric_throttled_writes(),
    }
    for name, metric in metrics.items():
        metric.create_alarm(stack, f"{name}Alarm", threshold=1, evaluation_periods=1)
    alarms = resources(stack, "AWS::CloudWatch::Alarm").values()
    assert {a["Properties"]["MetricName"] for a in alarms} == set(metrics)
    (pipe,) = resources(stack, "AWS::Pipes::Pipe")
    (failed,) = [a["Properties"] for a in alarms if a["Properties"]["MetricName"] == "ExecutionFailed"]
    assert failed["Dimensions"] == [{"Name": "PipeName", "Value": {"Ref": pipe}}]
    (succeeded,) = [a["Properties"] for a in alarms if a["Properties"]["MetricName"] == "Succeeded"]
    assert succeeded["Dimensions"] == [{"Name": "pipeline", "Value": "Stack/Photos"}]
    assert succeeded["Namespace"] == "cdk-inference"
    runtime = Path(__file__).parents[3] / "lambda_src" / "inference_runtime" / "stages" / "postprocessor.py"
    assert 'NAMESPACE = "cdk-inference"' in runtime.read_text()
    environment = next(iter(resources(stack, "AWS::Lambda::Function").values()))["Properties"]["Environment"]
    assert environment["Variables"]["PIPELINE"] == "Stack/Photos"


def test_two_pipelines_share_a_model_and_a_table(stack, model):
    results = ResultsTable(stack, "Results")
    for name in ("A", "B"):
        InferencePipeline(stack, name, model=model, preprocess=Preprocess.image(size=224), results=results)
    assert len(resources(stack, "AWS::DynamoDB::GlobalTable")) == 1
    assert len(resources(stack, "AWS::StepFunctions::StateMachine")) == 2


def test_a_stage_can_be_granted_more(stack, pipeline):
    bucket = s3.Bucket(stack, "Extra")
    bucket.grant_read(pipeline().stages.preprocess)
    text = json.dumps(resources(stack, "AWS::IAM::Policy"))
    assert stack.get_logical_id(bucket.node.default_child) in text


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 to 32, got 0"),
        ({"batch_size": 33}, "batch_size must be 1 to 32, got 33"),
        (
            {"max_batching_window": cdk.Duration.seconds(301)},
            "max_batching_window must be 0 to 300 seconds, got 301",
        ),
        ({"max_batching_window": cdk.Duration.millis(500)}, "max_batching_window must be in whole seconds, got 0.5 s"),
        ({"stage_timeout": cdk.Duration.seconds(0)}, "stage_timeout must be…got 0"),
        ({"reserved_concurrent_executions": 0}, "reserved_concurrent_executions must be at least 1, got 0"),
        ({"max_object_size": cdk.Size.bytes(0)}, "max_object_size must be at least 1 byte, got 0"),
        ({"max_receive_count": 0}, "max_receive_count must be 1 to 1,000, got 0"),
        ({"prefix": "in*"}, "prefix must not contain '*', which a policy would not take literally, got 'in*'"),
        ({"suffixes": ".jpg"}, "suffixes must be a list of str, got str '.jpg'; use ['.jpg']"),
        ({"suffixes": [".jpgg"]}, "suffixes must be ones that the preprocessing reads (.bmp…got '.jpgg'"),
        ({"suffixes": ["jpg"]}, "suffixes must be of the form '.jpg', got 'jpg'"),
        ({"stage_timeout": cdk.Duration.seconds(61)}, "stage_timeout must be at most 60 s, got 61 s…smaller batches"),
        ({"workflow_timeout": cdk.Duration.minutes(6)}, "workflow_timeout must be…got 360"),
        (
            {"inference": Inference.cpu(memory_size=64)},
            "memory_size must be 128 to 10240 MiB on Lambda, where Inference runs, got 64 MiB",
        ),
        ({"result_ttl": cdk.Duration.days(0)}, "result_ttl must be longer than 0, got 0 days"),
        (
            {"postprocess": Postprocess.classification(labels=["a", "b"], top=1)},
            "labels must have one name for each of the 10 classes…got 2",
        ),
    ],
)
def test_a_wrong_prop_fails_with_its_value_and_the_fix(pipeline, props, message):
    with pytest.raises(PropError) as error:
        pipeline(**props)
    for part in message.split("…"):
        assert part in str(error.value)


def test_preprocessing_that_does_not_fit_the_model_fails(stack, model):
    with pytest.raises(PropError, match=r"the model takes, image: uint8 .*, got uint8 \(batch, 128, 128, 3\)"):
        InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=128))


def test_something_else_than_a_model_fails(stack):
    with pytest.raises(PropError, match="model must be a ModelArtifact, got str"):
        InferencePipeline(stack, "Photos", model="recipe.py", preprocess=Preprocess.image(size=224))


def test_a_bucket_that_sends_no_events_warns(stack, pipeline):
    pipeline(bucket=s3.Bucket(stack, "Silent"))
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("does not send its events to EventBridge"))


@pytest.mark.parametrize("enable", ["l1", "l2"])
def test_a_bucket_that_sends_events_does_not_warn(stack, pipeline, enable):
    bucket = s3.Bucket(stack, "Loud", event_bridge_enabled=enable == "l2")
    if enable == "l1":
        bucket.node.default_child.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )
    pipeline(bucket=bucket)
    Annotations.from_stack(stack).has_no_warning("*", Match.string_like_regexp("EventBridge"))


def test_the_workflow_runs_aliases_of_the_functions(template):
    aliases = resources(template, "AWS::Lambda::Alias")
    assert len(aliases) == 3
    (machine,) = resources(template, "AWS::StepFunctions::StateMachine").values()
    pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    invoked = {piece["Ref"] for piece in pieces if isinstance(piece, dict)} - {"AWS::Partition"}
    assert invoked - resources(template, "AWS::SQS::Queue").keys() == set(aliases)
    (policy,) = [p for n, p in resources(template, "AWS::IAM::Policy").items() if "StateMachineRole" in n]
    allowed = [s for s in policy["Properties"]["PolicyDocument"]["Statement"] if "lambda" in str(s["Action"])]
    assert [s["Resource"] for s in allowed] == [{"Ref": alias} for alias in aliases]


def test_no_alias_moves_before_all_functions_of_the_route_have_their_code(template):
    functions = set(resources(template, "AWS::Lambda::Function"))
    for alias in resources(template, "AWS::Lambda::Alias").values():
        assert {*alias["DependsOn"], alias["Properties"]["FunctionName"]["Ref"]} == functions


def test_copies_of_an_app_do_not_share_their_metrics():
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    names = []
    for stage, stack_name in (("Dev", None), ("Prod", None), ("Third", "photos-third")):
        stack = cdk.Stack(cdk.Stage(app, stage), "Photos", stack_name=stack_name)
        model = ModelArtifact(stack, "Model", recipe=RECIPE)
        scope = cdk.NestedStack(stack, "Inner") if stage == "Third" else stack
        made = InferencePipeline(scope, "Scored", model=model, preprocess=Preprocess.image(size=224))
        dimensions = made.metric_failed().to_metric_config().metric_stat.dimensions
        names.append(dimensions[0].value)
        functions = resources(scope, "AWS::Lambda::Function").values()
        assert {f["Properties"]["Environment"]["Variables"]["PIPELINE"] for f in functions} == {names[-1]}
    assert names == ["Dev-Photos/Scored", "Prod-Photos/Scored", "photos-third/Inner/Scored"]


def test_metrics_have_a_name_in_ascii_that_is_their_own(stack, model):
    names = {
        name: InferencePipeline(
            stack, name, model=model, preprocess=Preprocess.image(size=224), execution=Execution.fused()
        )
        .metric_failed()
        .to_metric_config()
        .metric_stat.dimensions[0]
        .value
        for name in ("写真", "画像", "P" * 255 + "1", "P" * 255 + "2", "Plain")
    }
    assert len(set(names.values())) == 5
    assert names["Plain"] == "Stack/Plain"
    assert all(name.isascii() and len(name) <= 264 for name in names.values())


def test_tokens_are_not_validated(stack, pipeline):
    size = cdk.CfnParameter(stack, "BatchSize", type="Number")
    pipeline(batch_size=size.value_as_number)
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    batch = pipe["Properties"]["SourceParameters"]["SqsQueueParameters"]["BatchSize"]
    assert batch == {"Ref": "BatchSize"}
