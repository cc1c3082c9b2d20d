"""Releases as they are synthesized: who may do what, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk.assertions import Annotations, Match
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of
from tests.constructs.releases.released import Released

from cdk_inference import (
    AbortOn,
    AuditLog,
    Execution,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    Release,
)
from cdk_inference.model.records.manifest import Metric
from cdk_inference.releases.strategy import Arms


def test_all_at_once_is_a_pipeline_without_a_release():
    templates = []
    for release in (None, Release.all_at_once()):
        stack = make_stack()
        model = ModelArtifact(stack, "Old", recipe=RECIPE)
        InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), release=release)
        templates.append(cdk.assertions.Template.from_stack(stack).to_json())
    assert templates[0] == templates[1]


def test_a_release_leaves_the_stable_functions_where_they_are():
    released = Released()
    pipeline = released.pipeline()
    assert pipeline.routes["main"].inference.node.path == "Stack/Photos/Inference"
    assert pipeline.routes["new"].inference.node.path == "Stack/Photos/Routes/new/Inference"
    states = states_of(released.definition("WorkflowStateMachine"))
    (task,) = (state for name, state in states.items() if name == "main: Infer")
    assert "PhotosInferenceAlias" in task["Arguments"]["FunctionName"]


def test_the_workflow_may_use_the_records_of_its_release_alone():
    released = Released()
    released.pipeline()
    (table,) = (n for n in resources(released.stack, "AWS::DynamoDB::GlobalTable") if "Release" in n)
    facts = resources(released.stack, "AWS::DynamoDB::GlobalTable")[table]["Metadata"]["cdk-inference"]
    statements = [
        statement
        for name, policy in resources(released.stack, "AWS::IAM::Policy").items()
        if "WorkflowStateMachineRole" in name
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "dynamodb:" in str(statement["Action"])
    ]
    assert statements == [
        {
            "Action": ["dynamodb:GetItem", "dynamodb:UpdateItem"],
            "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [facts["release"]]}},
            "Effect": "Allow",
            "Resource": {"Fn::GetAtt": [table, "Arn"]},
        }
    ]


def test_another_salt_or_other_steps_are_another_release():
    made = Released()
    arms = Arms(made.route("old"), made.candidate, "salt")

    def id_of(**props: Any) -> str:
        return Release.canary(candidate=made.candidate, **props).release_id(made.stack, arms)

    assert id_of() == id_of()
    assert len({id_of(), id_of(salt="2"), id_of(steps=[50, 100])}) == 3


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"steps": [25, 5, 100]}, "steps must be percentages that grow, the last of which is 100, got 25, 5, 100"),
        ({"steps": [5, 25]}, "steps must be percentages that grow, the last of which is 100, got 5, 25"),
        ({"steps": [0, 100]}, "steps must be percentages that grow, the last of which is 100, got 0, 100"),
        ({"compared": 101}, "compared must be 0 to 100, got 101"),
        ({"confidence": 1.0}, "confidence must be at least 0.5 and below 1, got 1.0"),
        ({"min_samples": 0}, "min_samples must be at least 1, got 0"),
        ({"bake_time": cdk.Duration.days(15)}, "bake_time must be 1 to 1,209,600 seconds, got 1296000"),
        ({"abort_on": ["HighErrors"]}, "abort_on"),
    ],
)
def test_numbers_that_cannot_work_fail(release: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        Released(lambda made: Release.canary(candidate=made.candidate, **release))


@pytest.mark.parametrize(
    ("release", "props", "message"),
    [
        (
            lambda made: Release.canary(candidate=made.candidate, stable=made.route("old")),
            {},
            "stable must be left out with the pipeline's model, got both",
        ),
        (None, {"model": None}, "stable must be a Route, got None"),
        (lambda made: Release.canary(candidate=made.route("main")), {}, "names of routes must be unique, got 'main'"),
        (lambda made: Release.shadow(made.route("main"), 10), {}, "names of routes must be unique, got 'main'"),
    ],
)
def test_models_that_do_not_fit_fail(release: Any, props: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        Released(release, **props).pipeline()


def test_a_fused_pipeline_counts_its_arms_too():
    released = Released(execution=Execution.fused())
    released.pipeline()
    states = states_of(released.definition("WorkflowStateMachine"))
    assert "failures[message_id in $fresh]" in states["new: Score"]["Output"]["tally"]
    assert states["Count arms"]["Arguments"]["ExpressionAttributeValues"].keys() == {
        ":stable_ok",
        ":stable_errors",
        ":candidate_ok",
        ":candidate_errors",
    }


def alarm_of(stack: cdk.Stack) -> cloudwatch.Alarm:
    return cloudwatch.Metric(namespace="Any", metric_name="Thing").create_alarm(
        stack, "Alarm", threshold=1, evaluation_periods=1
    )


def test_the_stepper_may_write_the_state_and_the_judge_nothing():
    released = Released(
        lambda made: Release.canary(candidate=made.candidate, abort_on=[AbortOn.errors(), alarm_of(made.stack)])
    )
    released.pipeline()
    stepper, judge = released.statements("StepperStateMachineRole"), released.statements("StepperJudgeRole")
    data = {action for action in stepper if action.startswith(("dynamodb:", "cloudwatch:", "lambda:", "states:"))}
    assert data == {
        "dynamodb:UpdateItem",
        "cloudwatch:DescribeAlarms",
        "lambda:InvokeFunction",
        "states:StartExecution",
    }
    assert stepper["cloudwatch:DescribeAlarms"][0] == {"Fn::GetAtt": ["Alarm7103F465", "Arn"]}
    assert {action for action in judge if action.startswith("dynamodb:")} == {"dynamodb:Query"}
    for action, role in (("dynamodb:UpdateItem", stepper), ("dynamodb:Query", judge)):
        table, condition = role[action]
        assert "ReleaseTable" in table["Fn::GetAtt"][0]
        assert list(condition["ForAllValues:StringEquals"]) == ["dynamodb:LeadingKeys"]


def test_the_stepper_can_only_abort_and_go_along_the_steps():
    released = Released(lambda made: Release.canary(candidate=made.candidate, steps=[10, 40, 100]))
    released.pipeline()
    states = released.definition("StepperStateMachine")["States"]
    writes = {name: state["Arguments"] for name, state in states.items() if "UpdateExpression" in str(state)}
    shares = {name: call["ExpressionAttributeValues"][":share"]["N"] for name, call in writes.items()}
    assert shares == {
        "Begin": "10",
        "Abort": "0",
        "Promote": "100",
        "Advance": "{% $string([10, 40, 100][$verdict.step + 1]) %}",
    }
    conditions = {name: call["ConditionExpression"] for name, call in writes.items()}
    assert conditions.pop("Begin") == "attribute_not_exists(#status)"
    assert set(conditions.values()) == {"#status = :running AND #step = :seen"}
    assert all(state["Catch"][0]["Next"] == "Wait" for name, state in states.items() if name in writes)


def test_the_stepper_starts_when_its_stack_is_complete():
    released = Released()
    released.pipeline()
    (rule,) = (rule for name, rule in resources(released.stack, "AWS::Events::Rule").items() if "Stepper" in name)
    assert rule["Properties"]["EventPattern"] == {
        "source": ["aws.cloudformation"],
        "detail-type": ["CloudFormation Stack Status Change"],
        "detail": {
            "stack-id": [{"Ref": "AWS::StackId"}],
            "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]},
        },
    }


def test_a_shadow_writes_no_row_and_has_no_step():
    released = Released(lambda made: Release.shadow(made.candidate, 20))
    released.pipeline()
    states = states_of(released.definition("WorkflowStateMachine"))
    assert not any(name.startswith("new:") for name in states)
    assert {"Route", "Count arms"} & states.keys() == set()
    stepper = released.definition("StepperStateMachine")["States"]
    assert {"Advance", "Promote"} & stepper.keys() == set()
    assert stepper["Begin"]["Arguments"]["ExpressionAttributeValues"][":compared"] == {"N": "20"}
    comparison = released.definition("ComparisonStateMachine")["States"]
    assert "PhotosRoutesnewInferenceAlias" in comparison["Candidate: Infer"]["Arguments"]["FunctionName"]


def test_nothing_is_compared_if_no_rule_asks_for_it():
    released = Released(lambda made: Release.canary(candidate=made.candidate, abort_on=[AbortOn.errors()]))
    released.pipeline()
    assert not any("Comparison" in name for name in resources(released.stack, "AWS::StepFunctions::StateMachine"))
    assert "Compare sample" not in released.definition("WorkflowStateMachine")["States"]


@pytest.mark.parametrize("release", [{"abort_on": [AbortOn.latency()]}, {"shadow": True}], ids=["latency", "shadow"])
def test_a_fused_pipeline_cannot_compare_answers(release: dict[str, Any]):
    def make(made: Released) -> Any:
        if release.get("shadow"):
            return Release.shadow(made.candidate, 10)
        return Release.canary(candidate=made.candidate, **release)

    with pytest.raises(PropError, match=r"execution must be Execution.staged\(\) to compare the answers"):
        Released(make, execution=Execution.fused()).pipeline()


def test_a_composite_alarm_fails():
    def make(made: Released) -> Any:
        rule = cloudwatch.AlarmRule.from_alarm(alarm_of(made.stack), cloudwatch.AlarmState.ALARM)
        composite = cloudwatch.CompositeAlarm(made.stack, "Composite", alarm_rule=rule)
        return Release.canary(candidate=made.candidate, abort_on=[composite])

    with pytest.raises(PropError, match="abort_on must name metric alarms, got the composite alarm Stack/Composite"):
        Released(make).pipeline()


def test_an_imported_alarm_is_warned_of():
    def make(made: Released) -> Any:
        arn = "arn:aws:cloudwatch:us-east-1:111111111111:alarm:high"
        return Release.canary(
            candidate=made.candidate, abort_on=[cloudwatch.Alarm.from_alarm_arn(made.stack, "High", arn)]
        )

    released = Released(make)
    released.pipeline()
    warnings = Annotations.from_stack(released.stack).find_warning("*", Match.string_like_regexp("is imported"))
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AbortOn.errors(times=0.5), "times must be at least 1, got 0.5"),
        (lambda: AbortOn.latency(times=float("nan")), "times must be at least 1, got nan"),
        (lambda: AbortOn.disagreement(agreement=0.0), "agreement must be above 0 and at most 1, got 0.0"),
        (lambda: AbortOn.disagreement(metric="top3"), "metric must be one of top1_agreement, top5_agreement, cosine"),
        (lambda: AbortOn.disagreement(min_confidence=1.0), "min_confidence must be from 0 to below 1, got 1.0"),
    ],
)
def test_rules_that_cannot_work_fail(make: Any, message: str):
    with pytest.raises(PropError, match=message):
        make()


@pytest.mark.parametrize(
    ("metric", "given", "bound"),
    [
        ("top1_agreement", {}, {"metric": "top1_agreement", "agreement": 0.9}),
        ("top1_agreement", {"agreement": 0.8}, {"metric": "top1_agreement", "agreement": 0.8}),
        ("top1", {"metric": "cosine", "agreement": 0.7}, {"metric": "cosine", "agreement": 0.7}),
        ("top1", {}, "metric and agreement must be given for 'tiny', got none; its build has the metric 'top1'"),
        ("cosine", {"metric": "top1_agreement"}, "metric and agreement must be given for 'tiny'"),
    ],
)
def test_the_gate_of_the_build_goes_on_in_production(metric: str, given: dict[str, Any], bound: Any):
    released = Released()
    model = released.candidate.model
    model.manifest = dataclasses.replace(
        model.manifest, model_version="0123456789ab", metric=Metric(metric, 1.0, 0.95, 0.9, 100)
    )
    arms = Arms(released.route("old"), released.candidate, "salt")
    rule = AbortOn.disagreement(**given)
    if isinstance(bound, str):
        with pytest.raises(PropError, match=bound):
            rule.bind(released.stack, arms)
    else:
        assert rule.bind(released.stack, arms) == {"rule": "disagreement", "min_confidence": 0.0, **bound}


def test_a_decision_is_an_event_only_if_somebody_listens():
    quiet, released = Released(), Released()
    quiet.pipeline()
    assert len(resources(quiet.stack, "AWS::Pipes::Pipe")) == 1
    release = released.pipeline().release
    release.on_decision("Aborted", statuses=["ABORTED"])
    release.on_decision("Every")
    with pytest.raises(PropError, match="statuses must be 'RUNNING', 'PROMOTED' or 'ABORTED', got 'DONE'"):
        release.on_decision("Other", statuses=["DONE"])
    with pytest.raises(PropError, match="event_bus must be the same for all rules of these events, got Stack/Bus"):
        release.on_decision("Third", event_bus=events.EventBus(released.stack, "Bus"))
    assert released.definition("Stepper") == quiet.definition("Stepper")
    (pipe,) = (
        each["Properties"] for name, each in resources(released.stack, "AWS::Pipes::Pipe").items() if "Release" in name
    )
    (pattern,) = pipe["SourceParameters"]["FilterCriteria"]["Filters"]
    assert json.loads(pattern["Pattern"]) == {
        "eventName": ["INSERT", "MODIFY"],
        "dynamodb": {"Keys": {"release": {"S": [release.release_id]}, "record": {"S": ["state"]}}},
    }
    template = pipe["TargetParameters"]["InputTemplate"]
    assert '"history": <$.dynamodb.NewImage.history.L>' in template  # a list goes without quotes
    assert json.loads(template.replace("<$.dynamodb.NewImage.history.L>", "[]"))["candidate"] == "unbuilt"
    (role,) = (
        each["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        for name, each in resources(released.stack, "AWS::IAM::Role").items()
        if "DecisionsPipeRole" in name
    )
    assert [statement["Action"] for statement in role][1:] == ["events:PutEvents", "sqs:SendMessage"]
    rules = {name: each["Properties"] for name, each in resources(released.stack, "AWS::Events::Rule").items()}
    (aborted,) = (rule["EventPattern"] for name, rule in rules.items() if "Aborted" in name)
    assert aborted == {
        "source": ["cdk-inference"],
        "detail-type": ["Release Decision"],
        "detail": {"pipeline": ["Stack/Photos"], "release": [release.release_id], "status": ["ABORTED"]},
    }


def test_an_audit_log_gets_the_decisions_of_a_release():
    released = Released()
    pipeline = released.pipeline()
    pipeline.release.on_decision("Every")
    pipeline.audit(AuditLog(released.stack, "Log"))
    pipes = resources(released.stack, "AWS::Pipes::Pipe")
    assert [each["Properties"]["TargetParameters"] for name, each in pipes.items() if "Release" in name]
    (change,) = resources(released.stack, "Custom::RecordedModels").values()
    assert set(change["Properties"]["Models"]) == {"main", "new"}
