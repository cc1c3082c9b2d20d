"""SageMaker's asynchronous inference in a pipeline's template, and the props that it refuses."""

from __future__ import annotations

import json
import re

import aws_cdk as cdk
import pytest
from aws_cdk import Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks
from tests.assemblies import template_validation
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    GpuInference,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    SageMakerAsync,
    WorkBucket,
)
from inference_runtime import notification
from inference_runtime.errors import RetryableError


def add_pipeline(stack, backend=None, max_wait=None, **props):
    return InferencePipeline(
        stack,
        "Photos",
        model=ModelArtifact(stack, "Model", recipe=RECIPE),
        preprocess=Preprocess.image(size=224),
        inference=Inference.gpu(backend=backend or SageMakerAsync(), max_wait=max_wait),
        **props,
    )


@pytest.fixture
def pipeline(stack):
    return add_pipeline(stack)


@pytest.fixture
def inference(stack):
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return GpuInference(stack, "Infer", model=model, work=WorkBucket(stack, "Work"), backend=SageMakerAsync())


def only(stack, kind):
    (resource,) = resources(stack, kind).values()
    return resource["Properties"]


def gpu_machine(stack):
    """Return the definition of the state machine that waits, with tokens in the place of what CloudFormation knows."""
    machines = [
        machine["Properties"]
        for machine in resources(stack, "AWS::StepFunctions::StateMachine").values()
        if machine["Properties"]["StateMachineType"] == "STANDARD"
    ]
    (machine,) = machines
    parts = machine["DefinitionString"]["Fn::Join"][1]
    return json.loads("".join(part if isinstance(part, str) else "token" for part in parts))


def actions_of(stack, role_part):
    """Return which actions the role with this in its name may do, with the resources."""
    found = {}
    for name, policy in resources(stack, "AWS::IAM::Policy").items():
        if role_part in name:
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                for action in [actions] if isinstance(actions, str) else actions:
                    found.setdefault(action, []).append(statement["Resource"])
    return found


def test_what_it_adds_to_a_template(stack, inference, snapshot_json):
    template = Template.from_stack(stack).to_json()["Resources"]
    added = {name: resource for name, resource in template.items() if name.startswith("Infer")}
    for resource in added.values():
        if resource["Type"] == "AWS::SageMaker::Model":
            resource["Properties"]["PrimaryContainer"]["Image"] = "…"
    assert added == snapshot_json


def test_it_scales_to_zero_and_comes_back(stack, pipeline):
    target = only(stack, "AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 1)
    assert target["ScalableDimension"] == "sagemaker:variant:DesiredInstanceCount"
    assert "RoleARN" not in target  # the service-linked role
    (variant,) = only(stack, "AWS::SageMaker::EndpointConfig")["ProductionVariants"]
    (endpoint,) = resources(stack, "AWS::SageMaker::Endpoint")
    named = {"Fn::GetAtt": [endpoint, "EndpointName"]}
    assert target["ResourceId"] == {"Fn::Join": ["/", ["endpoint", named, f"variant/{variant['VariantName']}"]]}

    policies = {
        policy["Properties"]["PolicyType"]: (logical_id, policy["Properties"])
        for logical_id, policy in resources(stack, "AWS::ApplicationAutoScaling::ScalingPolicy").items()
    }
    _, tracking = policies["TargetTrackingScaling"]
    metric = tracking["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
    assert metric == {
        "Namespace": "AWS/SageMaker",
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Dimensions": [{"Name": "EndpointName", "Value": named}],
        "Statistic": "Average",
    }
    from_zero, steps = policies["StepScaling"]
    assert steps["StepScalingPolicyConfiguration"]["StepAdjustments"] == [
        {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    ]
    alarm = only(stack, "AWS::CloudWatch::Alarm")
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert alarm["Dimensions"] == [{"Name": "EndpointName", "Value": named}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanOrEqualToThreshold", 1)
    assert alarm["AlarmActions"] == [{"Ref": from_zero}]


def test_everything_is_under_the_users_key(stack, pipeline):
    (key,) = resources(stack, "AWS::KMS::Key")
    arn = {"Fn::GetAtt": [key, "Arn"]}
    for topic in resources(stack, "AWS::SNS::Topic").values():
        assert topic["Properties"]["KmsMasterKeyId"] == arn
    config = only(stack, "AWS::SageMaker::EndpointConfig")
    assert config["AsyncInferenceConfig"]["OutputConfig"]["KmsKeyId"] == arn
    assert "KmsKeyId" not in config  # SageMaker refuses it for instances that have their own disks
    (tokens,) = [t for n, t in resources(stack, "AWS::DynamoDB::GlobalTable").items() if "Tokens" in n]
    assert tokens["Properties"]["Replicas"][0]["SSESpecification"] == {"KMSMasterKeyId": arn}
    assert {str(g["Properties"]["KmsKeyId"]) for g in resources(stack, "AWS::Logs::LogGroup").values()} == {str(arn)}
    for role in ("EndpointRole", "SubmitRole", "CallbackRole"):
        allowed = actions_of(stack, role)
        assert {a for a in allowed if a.startswith("kms:")}, role
        assert all(resource == arn for a in allowed if a.startswith("kms:") for resource in allowed[a])


def test_without_a_key_topics_are_encrypted_all_the_same(stack, inference):
    for topic in resources(stack, "AWS::SNS::Topic").values():
        assert "alias/aws/sns" in json.dumps(topic["Properties"]["KmsMasterKeyId"])
    assert not {a for role in ("EndpointRole", "SubmitRole", "CallbackRole") for a in actions_of(stack, role)} & {
        "kms:Decrypt",
        "kms:GenerateDataKey",
    }


def test_each_may_do_what_it_has_to_and_nothing_else(stack, inference):
    logs_and_traces = {"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"}
    assert actions_of(stack, "SubmitRole").keys() - logs_and_traces == {
        "dynamodb:PutItem",
        "s3:PutObject",
        "sagemaker:InvokeEndpointAsync",
    }
    assert actions_of(stack, "CallbackRole").keys() - logs_and_traces == {
        "dynamodb:GetItem",
        "s3:GetObject",
        "sqs:SendMessage",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
    }
    endpoint = actions_of(stack, "EndpointRole")
    assert {action for action, on in endpoint.items() if "*" in on} == {
        "ecr:GetAuthorizationToken",
        "cloudwatch:PutMetricData",
    }
    assert "sagemaker/requests/*" in json.dumps(endpoint["s3:GetObject"])
    assert "sagemaker/answers/*" in json.dumps(endpoint["s3:PutObject"])
    assert not [action for action in endpoint if action.startswith(("s3:List", "s3:Delete", "sagemaker:", "iam:"))]


def test_only_the_state_machine_that_asked_is_answered(stack, pipeline):
    allowed = actions_of(stack, "CallbackRole")
    (machine,) = [
        name
        for name, machine in resources(stack, "AWS::StepFunctions::StateMachine").items()
        if machine["Properties"]["StateMachineType"] == "STANDARD"
    ]
    assert allowed["states:SendTaskSuccess"] == allowed["states:SendTaskFailure"] == [{"Ref": machine}]


def test_grant_invoke_fails_for_what_cannot_wait(stack, inference):
    with pytest.raises(PropError, match=r"must be a state machine, which alone can wait for SageMaker, got a User"):
        inference.grant_invoke(iam.User(stack, "Operator"))


def test_the_workflow_waits_with_a_token_until_an_answer_is_lost_for_certain(stack, pipeline):
    infer = gpu_machine(stack)["States"]["Infer"]
    assert infer["Resource"].endswith(":states:::lambda:invoke.waitForTaskToken")
    payload = infer["Arguments"]["Payload"]
    assert "$states.context.Task.Token" in payload["token"]
    assert payload["request"].keys() == {"groups", "only"}
    # In the queue for half of the wait; then a run; then the answer, for which Lambda tries three times.
    assert infer["TimeoutSeconds"] == 600 + 60 + 300
    assert "$min([600, 1200 - " in payload["wait"]
    caught = [error for catch in infer["Catch"] for error in catch["ErrorEquals"]]
    assert {"States.Timeout", "RetryableError", "SageMakerServiceError", "SageMakerOutputLost"} <= set(caught)
    retried = {error for retry in infer["Retry"] for error in retry["ErrorEquals"]}
    assert all(error.startswith("Lambda.") for error in retried)


@pytest.mark.parametrize(
    ("max_wait", "wait"), [(60, 60), (100, 60), (200, 100), (21_600, 10_800)], ids=["1 m", "100 s", "200 s", "6 h"]
)
def test_a_request_waits_for_half_of_that_time(stack, max_wait, wait):
    add_pipeline(stack, max_wait=cdk.Duration.seconds(max_wait))
    infer = gpu_machine(stack)["States"]["Infer"]
    assert f"$min([{wait}, {max_wait} - " in infer["Arguments"]["Payload"]["wait"]
    assert infer["Arguments"]["Payload"]["wait"].startswith("{% $max([60, ")


def test_the_errors_of_the_runtime_are_those_that_the_workflow_knows(inference):
    transient = inference.transient_errors
    assert {RetryableError.__name__, notification.SERVICE_ERROR, notification.OUTPUT_LOST} <= set(transient)
    assert not {notification.MODEL_ERROR, notification.OUTPUT_ERROR, "BatchTooLargeError"} & set(transient)


def test_answers_that_do_not_get_through_are_kept(stack, inference):
    (queue,) = [q for q in resources(stack, "AWS::SQS::Queue") if "Unanswered" in q]
    arn = {"Fn::GetAtt": [queue, "Arn"]}
    subscriptions = resources(stack, "AWS::SNS::Subscription").values()
    assert len(subscriptions) == 2
    for subscription in subscriptions:
        assert subscription["Properties"]["RedrivePolicy"] == {"deadLetterTargetArn": arn}
    config = only(stack, "AWS::Lambda::EventInvokeConfig")
    assert config["DestinationConfig"] == {"OnFailure": {"Destination": arn}}
    assert inference.stage.metric_unanswered().metric_name == "ApproximateNumberOfMessagesVisible"


def test_the_container_gets_the_handlers_variables(stack, pipeline):
    environment = only(stack, "AWS::SageMaker::Model")["PrimaryContainer"]["Environment"]
    assert environment["ACCELERATOR"] == "cuda"
    assert environment["PIPELINE"] == "Stack/Photos"
    assert environment["ANSWER_SECONDS"] == "60"  # a container in which a run takes longer ends
    assert {"MODEL_VERSION", "WORK_BUCKET", "AWS_DEFAULT_REGION"} <= environment.keys()
    assert "GPU_CONCURRENCY" not in environment  # the server batches across its threads


def depends_on(template, name):
    """Return what must be made before a resource, and so is deleted after it."""
    found, todo = set(), [name]
    while todo:
        resource = template[todo.pop()]
        text = json.dumps(resource.get("Properties", {}))
        direct = {*re.findall(r'{"Ref": "(\w+)"}|"Fn::GetAtt": \["(\w+)"', text)}
        names = {one for pair in direct for one in pair} | set(resource.get("DependsOn", ()))
        new = (names & template.keys()) - found
        found |= new
        todo += new
    return found


def test_what_is_used_goes_after_its_user(stack, pipeline):
    template = Template.from_stack(stack).to_json()["Resources"]

    def named(kind, part=""):
        (name,) = [name for name, r in template.items() if r["Type"] == f"AWS::{kind}" and part in name]
        return name

    endpoint = named("SageMaker::Endpoint")
    before = depends_on(template, endpoint)
    assert {
        named("SageMaker::EndpointConfig"),
        named("SageMaker::Model"),
        named("IAM::Policy", "EndpointRole"),
        named("Logs::LogGroup", "Endpoint"),
    } <= before
    assert endpoint in depends_on(template, named("ApplicationAutoScaling::ScalableTarget"))
    assert endpoint in depends_on(template, named("Lambda::Function", "Submit"))
    for machine in (n for n, r in template.items() if r["Type"] == "AWS::StepFunctions::StateMachine"):
        assert endpoint in depends_on(template, machine)  # nothing is taken before the endpoint is there


def test_a_stack_that_is_deleted_and_made_again_finds_no_log_group_of_its_name(stack, inference):
    name = only(stack, "AWS::SageMaker::Endpoint")["EndpointName"]
    assert "AWS::StackId" in json.dumps(name)
    fixed = name["Fn::Join"][1][0]
    assert fixed == fixed.lower()  # in ARNs it is
    assert len(fixed) + len("-") + len("01234567") <= 63
    (logs,) = [g for g in resources(stack, "AWS::Logs::LogGroup").values() if "LogGroupName" in g["Properties"]]
    assert json.dumps(name)[1:-1] in json.dumps(logs["Properties"]["LogGroupName"])


def test_metrics_are_those_that_sagemaker_publishes(inference):
    assert inference.metric_errors().metric_name == "InvocationFailures"
    assert inference.metric_throttles(period=cdk.Duration.minutes(1)).metric_name == "ExpiredRequests"
    assert inference.metric_duration().statistic == "Average"
    assert set(inference.metric_duration().dimensions) == {"EndpointName", "VariantName"}
    assert inference.metric_invocations().namespace == "AWS/Lambda"


def test_instances_and_concurrency_are_the_users(stack):
    add_pipeline(stack, SageMakerAsync(instance_type="ml.g6e.2xlarge", max_instances=3, concurrency=8))
    config = only(stack, "AWS::SageMaker::EndpointConfig")
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.g6e.2xlarge"
    client = config["AsyncInferenceConfig"]["ClientConfig"]
    assert client == {"MaxConcurrentInvocationsPerInstance": 8}
    assert only(stack, "AWS::ApplicationAutoScaling::ScalableTarget")["MaxCapacity"] == 3


def test_on_a_machine_without_a_gpu_there_is_no_endpoint():
    stack = make_stack(**{"cdk-inference:accelerator": "cpu"})
    add_pipeline(stack)
    kinds = {resource["Type"] for resource in Template.from_stack(stack).to_json()["Resources"].values()}
    assert not {kind for kind in kinds if kind.startswith(("AWS::SageMaker", "AWS::SNS", "AWS::Application"))}


@pytest.mark.parametrize(
    "good", ["ml.g4dn.xlarge", "ml.g5.12xlarge", "ml.g6.xlarge", "ml.gr6.4xlarge", "ml.p4de.24xlarge"]
)
def test_instance_types_with_a_gpu(good):
    assert SageMakerAsync(instance_type=good).instance_type == good
    token = cdk.Fn.ref("InstanceType")
    assert SageMakerAsync(instance_type=token).instance_type == token


@pytest.mark.parametrize(
    ("props", "says"),
    [
        ({"instance_type": "g5.xlarge"}, "instance_type must be like 'ml.g5.xlarge', got 'g5.xlarge'"),
        ({"instance_type": "ml.g5"}, "must be like 'ml.g5.xlarge'"),
        ({"instance_type": "ml.g5.huge"}, "must be like 'ml.g5.xlarge'"),
        (
            {"instance_type": "ml.m5.xlarge"},
            "must have an NVIDIA GPU, got 'ml.m5.xlarge'; use one like 'ml.g5.xlarge', or Inference.cpu",
        ),
        ({"instance_type": "ml.inf2.xlarge"}, "must have an NVIDIA GPU"),
        ({"instance_type": "ml.trn1.2xlarge"}, "must have an NVIDIA GPU"),
        (
            {"instance_type": "ml.p3.2xlarge"},
            "new enough for CUDA 13, got 'ml.p3.2xlarge'; use one like 'ml.g4dn.xlarge'",
        ),
        ({"instance_type": "ml.g5g.xlarge"}, "must be x86_64, as the image is, got 'ml.g5g.xlarge', which is arm64"),
        ({"instance_type": "ml.p6e-gb200.36xlarge"}, "which is arm64"),
        ({"max_instances": 0}, "max_instances must be at least 1, got 0"),
        ({"concurrency": 0}, "concurrency must be 1 to 1,000, got 0"),
        ({"concurrency": 1001}, "concurrency must be 1 to 1,000, got 1001"),
    ],
)
def test_props_that_cannot_work_fail(props, says):
    with pytest.raises(PropError, match=says):
        SageMakerAsync(**props)


def test_a_run_of_more_than_an_hour_fails(stack):
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    with pytest.raises(PropError, match="timeout must be 1 to 3,600 seconds, got 3601"):
        GpuInference(
            stack,
            "Infer",
            model=model,
            work=WorkBucket(stack, "Work"),
            backend=SageMakerAsync(),
            timeout=cdk.Duration.seconds(3601),
        )


@pytest.mark.parametrize("own_key", [False, True])
def test_cdk_nag_has_no_finding_that_is_not_acknowledged(tmp_path, own_key):
    app = cdk.App(outdir=str(tmp_path / "cdk.out"), context={"aws:cdk:bundling-stacks": []})
    Validations.of(app).add_plugins(AwsSolutionsChecks(app), template_validation())
    stack = cdk.Stack(app, "Stack")
    if own_key:
        add_pipeline(stack, encryption_key=kms.Key(stack, "Mine", enable_key_rotation=True))
    else:
        model, work = ModelArtifact(stack, "Model", recipe=RECIPE), WorkBucket(stack, "Work")
        GpuInference(stack, "Infer", model=model, work=work, backend=SageMakerAsync())
    try:
        app.synth()
    except RuntimeError as error:
        assert "ValidationFailed" in str(error)  # noqa: PT017 (synth raises for findings: the report says which)
    plugins = json.loads((tmp_path / "cdk.out" / "validation-report.json").read_text())["pluginReports"]
    assert [v["ruleName"] for plugin in plugins for v in plugin["violations"]] == []
