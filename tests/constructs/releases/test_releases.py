"""Releases as they are synthesized: who may do what, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from tests.constructs.conftest import RECIPE, make_stack, resources, states_of

from cdk_inference import (
    Execution,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    Release,
    Route,
    Routing,
)

if TYPE_CHECKING:
    from cdk_inference import ReleaseStrategy


class Released:
    """A pipeline with a release, and what it is made of."""

    def __init__(self, release: Any = None, **props: Any) -> None:
        self.stack = make_stack()
        self.model = ModelArtifact(self.stack, "Old", recipe=RECIPE)
        self.preprocess = Preprocess.image(size=224)
        self.candidate = self.route("new")
        self.props = {"model": self.model, "preprocess": self.preprocess} | props
        self.release: ReleaseStrategy = release(self) if release else Release.canary(candidate=self.candidate)

    def route(self, name: str, **options: Any) -> Route:
        return Route(name, model=ModelArtifact(self.stack, name, recipe=RECIPE), preprocess=self.preprocess, **options)

    def pipeline(self) -> InferencePipeline:
        return InferencePipeline(self.stack, "Photos", release=self.release, **self.props)

    def definition(self, part: str) -> dict[str, Any]:
        """Return the definition of a state machine, with names in the place of references."""
        (machine,) = (
            resource
            for name, resource in resources(self.stack, "AWS::StepFunctions::StateMachine").items()
            if part in name
        )
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        return json.loads("".join(piece if isinstance(piece, str) else str(piece["Ref"]) for piece in pieces))


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
    def id_of(**props: Any) -> str:
        released = Released(lambda made: Release.canary(candidate=made.candidate, **props))
        released.pipeline()
        (facts,) = (
            table["Metadata"]["cdk-inference"]["release"]
            for table in resources(released.stack, "AWS::DynamoDB::GlobalTable").values()
            if table["Metadata"]["cdk-inference"]["role"] == "releases"
        )
        return str(facts)

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
        ({"bake_time": cdk.Duration.days(15)}, "bake_time must be between 1 and 1209600 seconds, got 1296000"),
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
        (
            lambda made: Release.canary(candidate=made.route("gpu", inference=Inference.gpu())),
            {},
            "candidate must be a route on a CPU, got 'gpu' on a GPU",
        ),
        (lambda made: Release.canary(candidate=made.route("main")), {}, "names of routes must be unique, got 'main'"),
        (lambda made: Release.shadow(made.route("main"), 10), {}, "names of routes must be unique, got 'main'"),
    ],
)
def test_models_that_do_not_fit_fail(release: Any, props: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        Released(release, **props).pipeline()


def test_a_routing_besides_a_release_fails():
    released = Released(model=None, preprocess=None)
    released.props["routing"] = Routing.split({"a": (1, released.route("a")), "b": (1, released.route("b"))})
    with pytest.raises(PropError, match="routing must be left out with a release, got both"):
        released.pipeline()


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
