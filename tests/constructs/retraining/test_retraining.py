"""The template of a retraining: who may do what, in which order, and what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    AuditLog,
    DeploymentJob,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    QueueTrigger,
    RetrainOn,
    TrainingJob,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def project(stack: cdk.Stack, name: str) -> codebuild.Project:
    spec = codebuild.BuildSpec.from_object({"version": "0.2", "phases": {"build": {"commands": [f"echo {name}"]}}})
    return codebuild.Project(stack, name, build_spec=spec, grant_report_group_permissions=False)


def options(stack: cdk.Stack) -> dict[str, Any]:
    return {
        "classes": ["cat", "dog"],
        "training": TrainingJob.code_build(project(stack, "Train")),
        "build": TrainingJob.code_build(project(stack, "Build")),
        "deployment": DeploymentJob.code_build(project(stack, "Deploy")),
        "when": [RetrainOn.new_labels(10)],
    }


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """A pipeline with all kinds of reasons, as CloudFormation gets it."""
    stack = make_stack()
    pipeline = InferencePipeline(
        stack, "Photos", model=ModelArtifact(stack, "Model", recipe=RECIPE), preprocess=Preprocess.image(size=224)
    )
    alarm = cloudwatch.Alarm(
        stack,
        "Drifted",
        metric=cloudwatch.Metric(namespace="Tests", metric_name="Drift"),
        threshold=1,
        evaluation_periods=1,
    )
    daily = RetrainOn.schedule(events.Schedule.rate(cdk.Duration.days(1)))
    given = options(stack) | {"when": [RetrainOn.new_labels(10), RetrainOn.alarm(alarm), daily]}
    retraining = pipeline.add_retraining(**given)
    pipeline.audit(AuditLog(stack, "Log"))
    retraining.grant_label(iam.User(stack, "Labeller"))
    retraining.grant_start(iam.User(stack, "Operator"))
    retraining.on_outcome("Refused", statuses=["REFUSED"])
    return cdk.assertions.Template.from_stack(stack).to_json()


def definition(template: dict[str, Any]) -> dict[str, Any]:
    (machine,) = (
        each
        for each in resources(template, "AWS::StepFunctions::StateMachine").values()
        if each["Metadata"]["cdk-inference"]["role"] == "retraining"
    )
    parts = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    return dict(json.loads("".join(part if isinstance(part, str) else "TOKEN" for part in parts)))


def statements(template: dict[str, Any], part: str) -> dict[str, set[str]]:
    """Return the resources that a role may use each action on, as text, besides its logs, traces and keys."""
    found: dict[str, set[str]] = {}
    for name, policy in resources(template, "AWS::IAM::Policy").items():
        if part not in name:
            continue
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            for action in [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]:
                if action.split(":")[0] in ("logs", "xray", "kms"):
                    continue
                named = statement["Resource"]
                each = named if isinstance(named, list) else [named]
                found.setdefault(action, set()).update(map(_shortened, each))
    return found


def _shortened(resource: Any) -> str:
    match resource:
        case {"Fn::GetAtt": [name, _]} | {"Ref": name}:
            return re.sub(r"[0-9A-F]{8}$", "", name)
        case {"Fn::Join": [_, parts]}:
            return "".join(part if isinstance(part, str) else _shortened(part) for part in parts)
    return str(resource)


BUCKET = "PhotosRetrainingIntakeBucket"
LABELS, RUNS = "PhotosRetrainingIntakeLabels", "PhotosRetrainingIntakeRuns"
MACHINE = "PhotosRetrainingWorkflowStateMachine"
INBOX = "PhotosTriggerInbox"
EVENTS = "arn:AWS::Partition:events:AWS::Region:AWS::AccountId"


def each(actions: Iterable[str], *named: str) -> dict[str, set[str]]:
    return {action: set(named) for action in actions}


def test_each_function_may_do_its_part_and_nothing_else(template: dict[str, Any]) -> None:
    assert statements(template, "RetrainingIntakeTakeLabels") == {
        "dynamodb:Query": {"PhotosResultsTable"},
        "dynamodb:PutItem": {LABELS},
        "dynamodb:UpdateItem": {LABELS, RUNS},
        "dynamodb:GetItem": {RUNS},
        **each(("s3:GetObject", "s3:GetObjectVersion"), f"{BUCKET}/labels/*"),
        "s3:PutObject": {f"{BUCKET}/rejected-labels/*"},
        "states:StartExecution": {MACHINE},
        **each(
            (f"sqs:{one}" for one in ("ReceiveMessage", "ChangeMessageVisibility", "GetQueueUrl", "DeleteMessage")),
            "PhotosRetrainingIntakeQueue",
        ),
        "sqs:GetQueueAttributes": {"PhotosRetrainingIntakeQueue"},
    }
    assert statements(template, "RetrainingWorkflowSelectLabels") == {
        "dynamodb:Scan": {LABELS},
        "dynamodb:GetItem": {RUNS},
        "s3:PutObject": {f"{BUCKET}/label-sets/*"},
    }
    assert statements(template, "RetrainingWorkflowReadReport") == {
        "s3:GetObject": {f"{BUCKET}/weights/*", f"{BUCKET}/builds/*"},
        "s3:ListBucket": {BUCKET},
    }
    # The functions that count labels may use that record of the table alone.
    of_runs = [
        statement["Condition"]["ForAllValues:StringEquals"]
        for name, policy in resources(template, "AWS::IAM::Policy").items()
        if "TakeLabels" in name or "SelectLabels" in name
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if RUNS in json.dumps(statement["Resource"])
    ]
    assert of_runs == [{"dynamodb:LeadingKeys": ["labels"]}] * 2


def test_each_job_may_write_what_it_makes_and_nothing_that_judges_it(template: dict[str, Any]) -> None:
    inbox = {"s3:GetObjectVersion": {f"{INBOX}/*"}, "s3:ListBucket": {BUCKET, INBOX}}
    assert statements(template, "TrainRole") == {
        "s3:GetObject": {f"{BUCKET}/label-sets/*", f"{INBOX}/*"},
        "s3:PutObject": {f"{BUCKET}/weights/*"},
        **inbox,
    }
    assert statements(template, "BuildRole") == {
        "s3:GetObject": {f"{BUCKET}/{folder}/*" for folder in ("label-sets", "weights", "models")} | {f"{INBOX}/*"},
        "s3:PutObject": {f"{BUCKET}/builds/*", f"{BUCKET}/models/*"},
        **inbox,
    }
    assert statements(template, "DeployRole") == {
        "s3:GetObject": {f"{BUCKET}/models/*"},
        "s3:ListBucket": {BUCKET},
    }


def test_the_workflow_may_run_its_jobs_and_no_others(template: dict[str, Any]) -> None:
    assert statements(template, "RetrainingWorkflowStateMachineRole") == {
        "lambda:InvokeFunction": {
            "PhotosRetrainingWorkflowSelectLabelsAlias",
            "PhotosRetrainingWorkflowReadReportAlias",
        },
        "dynamodb:UpdateItem": {RUNS},
        "dynamodb:GetItem": {RUNS},
        "events:PutEvents": {f"{EVENTS}:event-bus/default"},
        **each(("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"), "Train", "Build", "Deploy"),
        **each(
            ("events:PutTargets", "events:PutRule", "events:DescribeRule"),
            f"{EVENTS}:rule/StepFunctionsGetEventForCodeBuildStartBuildRule",
        ),
    }
    assert statements(template, "RetrainingWorkflowStartAgain") == {"states:StartExecution": {MACHINE}}


def test_persons_may_label_or_start_and_nothing_else(template: dict[str, Any]) -> None:
    assert statements(template, "Labeller") == {
        "lambda:InvokeFunction": {"PhotosRetrainingIntakeTakeLabelsAlias"},
        "s3:PutObject": {f"{BUCKET}/labels/*"},
    }
    assert statements(template, "Operator") == {
        "states:StartExecution": {MACHINE},
        "dynamodb:GetItem": {RUNS},
        "dynamodb:Scan": {RUNS},
    }


def test_each_reason_starts_the_workflow(template: dict[str, Any]) -> None:
    rules = {name: each["Properties"] for name, each in resources(template, "AWS::Events::Rule").items()}
    of_alarm, of_schedule = (next(rule for name, rule in rules.items() if f"Reason{n}" in name) for n in (1, 2))
    assert of_alarm["EventPattern"]["detail-type"] == ["CloudWatch Alarm State Change"]
    assert "Drifted" in json.dumps(of_alarm["EventPattern"]["resources"])
    assert of_alarm["EventPattern"]["detail"] == {"state": {"value": ["ALARM"]}}
    assert of_schedule["ScheduleExpression"] == "rate(1 day)"
    for rule, why in ((of_alarm, "alarm"), (of_schedule, "schedule")):
        (target,) = rule["Targets"]
        assert (_shortened(target["Arn"]), json.loads(target["Input"])) == (MACHINE, {"by": why})
    (month,) = (rule for name, rule in rules.items() if "NextMonth" in name)
    assert month["ScheduleExpression"] == "cron(20 0 1 * ? *)"
    assert json.loads(month["Targets"][0]["Input"]) == {"by": "budget"}
    (refused,) = (rule for name, rule in rules.items() if "Refused" in name)
    assert refused["EventPattern"]["detail"] == {"pipeline": ["Stack/Photos"], "status": ["REFUSED"]}


def test_every_failure_is_caught_and_leads_to_the_lock(template: dict[str, Any]) -> None:
    states = definition(template)["States"]

    def ends(name: str, seen: frozenset[str] = frozenset()) -> Iterator[frozenset[str]]:
        state = states[name]
        after = [state[key] for key in ("Next", "Default") if key in state]
        after += [one["Next"] for key in ("Choices", "Catch") for one in state.get(key, ())]
        if not after:
            yield seen | {name}
        for one in after:
            yield from ends(one, seen | {name})

    tasks = {name for name, state in states.items() if state["Type"] == "Task"}
    assert all(states[name]["Catch"][-1]["ErrorEquals"] == ["States.ALL"] for name in tasks)
    for path in ends("Select labels"):  # whatever follows the lock
        assert "Release lock" in path
    assert states["Take lock"]["Next"] == "Select labels"
    # A try whose answer was lost has the lock, and another one must not find it taken.
    assert " OR #owner = :owner OR " in states["Take lock"]["Arguments"]["ConditionExpression"]
    assert states["Take budget"]["Arguments"]["ConditionExpression"].endswith(" OR #last = :me")
    expiry = states["Take lock"]["Arguments"]["ExpressionAttributeValues"][":expires_at"]["N"]
    assert f"+ {1000 * (definition(template)['TimeoutSeconds'] + 60)}" in expiry


def test_data_is_encrypted_versioned_and_retained(template: dict[str, Any]) -> None:
    (bucket,) = (each for name, each in resources(template, "AWS::S3::Bucket").items() if name.startswith(BUCKET))
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    tables = resources(template, "AWS::DynamoDB::GlobalTable")
    for name in (LABELS, RUNS):
        (table,) = (each for logical_id, each in tables.items() if logical_id.startswith(name))
        (replica,) = table["Properties"]["Replicas"]
        assert replica["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
        assert "KMSMasterKeyId" in replica["SSESpecification"]
        assert table["DeletionPolicy"] == "RetainExceptOnCreate"


def test_jobs_of_other_services_are_bounded(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    role = iam.Role(stack, "JobRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
    job_role = iam.Role(stack, "ContainerRole", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
    arn = "arn:aws:batch:eu-west-1:111111111111"
    delivery = codepipeline.Pipeline.from_pipeline_arn(
        stack, "Delivery", "arn:aws:codepipeline:eu-west-1:111111111111:delivery"
    )
    made = pipeline().add_retraining(
        classes=["cat", "dog"],
        training=TrainingJob.sage_maker(image="image:1", role=role, instance_type="ml.g5.xlarge"),
        build=TrainingJob.batch(
            job_definition_arn=f"{arn}:job-definition/build:1", job_queue_arn=f"{arn}:job-queue/q", job_role=job_role
        ),
        deployment=DeploymentJob.code_pipeline(delivery),
        when=[RetrainOn.schedule(events.Schedule.rate(cdk.Duration.days(7)))],
        job_timeout=cdk.Duration.hours(1),
        max_runs_per_month=2,
    )
    template = cdk.assertions.Template.from_stack(stack).to_json()
    states = definition(template)["States"]
    train, build, deploy = (states[name] for name in ("Train", "Build", "Deploy"))
    assert train["Resource"].endswith(":sagemaker:createTrainingJob.sync")
    assert train["Arguments"]["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert train["Arguments"]["Environment"]["RETRAINING_RUN"] == "{% $run %}"
    assert build["Arguments"]["JobQueue"] == f"{arn}:job-queue/q"
    assert (train["TimeoutSeconds"], build["TimeoutSeconds"]) == (3600, 3600)
    assert deploy["Arguments"]["Variables"] == [
        {"Name": "MODEL_NAME", "Value": "{% $model %}"},
        {"Name": "MODEL_VERSION", "Value": "{% $version %}"},
    ]
    assert states["Delivered"]["Assign"]["status"] == "DELIVERED"
    allowed = statements(template, "RetrainingWorkflowStateMachineRole")
    assert allowed["batch:SubmitJob"] == {f"{arn}:job-definition/build:1", f"{arn}:job-queue/q"}
    assert allowed["iam:PassRole"] == {"JobRole"}
    assert allowed["codepipeline:StartPipelineExecution"] == {delivery.pipeline_arn}
    # AWS names no resources for this action.
    assert [action for action, named in allowed.items() if "*" in named] == ["batch:DescribeJobs"]
    assert "states:StartExecution" not in statements(template, "TakeLabels")  # labels start nothing
    assert made.max_usd_per_month(0.01) == pytest.approx(2 * 3 * 60 * 0.01)


def test_a_build_on_sagemaker_uploads_where_its_role_may_write(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    role = iam.Role(stack, "JobRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
    build = TrainingJob.sage_maker(image="image:1", role=role, instance_type="ml.c7i.xlarge")
    pipeline().add_retraining(**options(stack) | {"build": build})
    template = cdk.assertions.Template.from_stack(stack).to_json()
    output = definition(template)["States"]["Build"]["Arguments"]["OutputDataConfig"]["S3OutputPath"]
    folder = output.removeprefix("{% 's3://TOKEN/").partition("' &")[0]
    assert f"{BUCKET}/{folder}*" in statements(template, "JobRole")["s3:PutObject"]


def test_the_jobs_of_messages_have_no_objects_and_fail(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    with pytest.raises(PropError, match="trigger must be an S3Trigger for a retraining, got QueueTrigger"):
        pipeline(trigger=QueueTrigger(stack, "Trigger")).add_retraining(**options(stack))


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"classes": ["cat"]}, "classes must be two or more names, got 1"),
        ({"classes": ["cat", "cat"]}, "classes must be different names, got cat, cat"),
        ({"when": []}, "when must be one or more reasons, got none"),
        ({"when": [RetrainOn.new_labels(1), RetrainOn.new_labels(2)]}, "reasons of which one at most is .*, got 2"),
        ({"max_runs_per_month": 0}, "max_runs_per_month must be at least 1, got 0"),
        ({"held_out": 1.0}, "held_out must be a share, from 0 to below 1, got 1.0"),
        ({"job_timeout": cdk.Duration.seconds(1)}, "job_timeout must be 60 to 604,800 seconds, got 1"),
    ],
)
def test_props_out_of_range_fail(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline], props: dict[str, Any], message: str
) -> None:
    with pytest.raises(PropError, match=message):
        pipeline().add_retraining(**options(stack) | props)


def test_jobs_out_of_range_fail(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    role = iam.Role(stack, "JobRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
    with pytest.raises(PropError, match=r"instance_type must be a type such as .ml\.g5\.xlarge., got g5\.xlarge"):
        TrainingJob.sage_maker(image="image:1", role=role, instance_type="g5.xlarge")
    with pytest.raises(PropError, match="count must be at least 1, got 0"):
        RetrainOn.new_labels(0)
    theirs = codebuild.Project.from_project_name(stack, "Theirs", "theirs")
    with pytest.raises(PropError, match=r"project must have a role .*, got the imported Stack/Theirs"):
        DeploymentJob.code_build(theirs)
    delivery = codepipeline.Pipeline.from_pipeline_arn(stack, "Delivery", "arn:aws:codepipeline:r:111111111111:d")
    with pytest.raises(PropError, match="training must be one of TrainingJob, whose end the workflow waits for"):
        pipeline().add_retraining(**options(stack) | {"training": DeploymentJob.code_pipeline(delivery)})


def test_a_second_retraining_fails(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    made, given = pipeline(), options(stack)
    made.add_retraining(**given)
    with pytest.raises(
        PropError, match=r"Stack/Photos must have one retraining, got another, 'Again'; give 'Retraining'"
    ):
        made.add_retraining("Again", **given)


@pytest.mark.parametrize("first", ["audit", "retraining"])
def test_an_audit_log_that_would_hear_nothing_of_it_fails(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline], first: str
) -> None:
    made, bus = pipeline(), events.EventBus(stack, "Bus")
    calls = [
        lambda: made.audit(AuditLog(stack, "Log")),
        lambda: made.add_retraining(**options(stack), event_bus=bus),
    ]
    before, after = calls if first == "audit" else reversed(calls)
    before()
    with pytest.raises(PropError, match="event_bus must be the same for all rules of these events"):
        after()
