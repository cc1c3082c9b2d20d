"""A review reads templates and facts from a cloud assembly."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, PipelineShape
from cdk_inference.costs.recorded import RecordedCosts
from cdk_inference.drawings.layout import draw, mermaid
from cdk_inference.review import graphs
from cdk_inference.review.assembly import Assembly, read_assembly
from cdk_inference.review.changes import access, models, permissions, workflows
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.graphs import KINDS
from cdk_inference.review.template import Template

from .conftest import FACTS, LABELS, MEASURED

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("review")


def test_stacks_nested_ones_and_resources_have_the_paths_of_their_constructs(app: Assembly) -> None:
    assert list(app.templates) == ["Shop", "Shop/Inner"]
    roles = {resource.role: resource.path for resource in app.templates["Shop"].resources.values()}
    assert roles["results"] == "Photos/Results/Table"
    assert roles["state-machine"] == "Photos/Workflow/StateMachine"
    assert app.templates["Shop/Inner"].nested
    tables = app.templates["Shop/Inner"].of_type("AWS::DynamoDB::GlobalTable")
    assert [table.path for table in tables] == ["Fast/Results/Table"]


def test_facts_next_to_the_templates_are_read(app: Assembly) -> None:
    assert app.manifests[FACTS["model_version"]]["measured"] == MEASURED
    assert set(app.labels.values()) == {tuple(LABELS)}
    costs = {path: RecordedCosts.from_json(text) for path, text in app.costs.items()}
    assert {name: option.milliseconds for name, option in costs["Shop/Photos"].ways.items()} == {
        "small": 3,
        "large": 30,
    }
    assert costs["Shop/Photos"].shares == {"small": 0.9, "large": pytest.approx(0.1)}
    fast = costs["Shop/Inner/Fast"]
    assert (fast.shape.direct, list(fast.ways.values())) == (True, [None])  # its model has never been measured


def test_the_states_of_a_workflow_know_what_they_call(app: Assembly) -> None:
    template = app.templates["Shop"]
    flow = workflows.workflows(template)["Photos/Workflow/StateMachine"]
    assert flow.start in flow.states
    called = {template.name(name) for state in flow.states.values() for name in state.calls}
    assert {f"Photos/Routes/{route}/Inference/Alias" for route in ("small", "large")} <= called
    assert {state.parent for state in flow.states.values()} > {""}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"artifacts": {"A": {"type": "aws:cloudformation:stack"}}}'])
def test_a_damaged_assembly_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ReviewError, match="run cdk synth again"):
        read_assembly(tmp_path)


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match=re.escape(f"{tmp_path} must be a cloud assembly")):
        read_assembly(tmp_path)


def test_costs_that_were_recorded_come_back() -> None:
    cpu = CpuOption("small", milliseconds=3.0, memory_size=2048)
    gpu = GpuOption("large", milliseconds=1.0, backend="sagemaker")
    ways = {"small": cpu, "cascade": CascadeOption("cascade", first=cpu, then=gpu, escalation=0.2), "unknown": None}
    costs = RecordedCosts(PipelineShape(batch_size=8, fused=True), ways, {"small": 0.5, "unknown": None})
    assert RecordedCosts.from_json(costs.to_json()) == costs
    with pytest.raises(ValueError, match="this version"):
        RecordedCosts.from_json('{"ways": {"a": {"kind": "abacus"}}}')


KEYS = re.findall(
    r"\S+",
    "Ref Fn::Join Fn::GetAtt Fn::Sub States StartAt Choices Next Catch Type Statement Action Resource Principal AWS "
    "Effect Condition Targets Arn Roles Environment Variables model role pipeline shape inputs metric x",
)
TEXTS = st.text(max_size=6) | st.sampled_from(["One", "Two", "Allow", "*", "${One.Arn}", "function"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
PROPERTIES = re.findall(
    r"\S+",
    "FunctionName BucketName QueueName Name NotificationConfiguration RoleArn KmsKeyId PermissionsBoundary "
    "PolicyDocument KeyPolicy Policies ManagedPolicyArns AssumeRolePolicyDocument Roles Principal FunctionName "
    "EventPattern Targets Source Target Body RedrivePolicy DefinitionString DefinitionSubstitutions Role Environment",
)
TYPES = [*KINDS, "AWS::IAM::Policy", "AWS::IAM::Role", "AWS::Lambda::Permission", "AWS::Lambda::Alias"]


def resource(type_: str, properties: Any, facts: Any) -> dict[str, Any]:
    return {"Type": type_, "Properties": properties, "Metadata": {"cdk-inference": facts}}


@given(
    st.sampled_from(TYPES),
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(PROPERTIES), JSON, max_size=4) | JSON,
    JSON,
)
def test_templates_of_any_shape_are_read(one: str, two: str, properties: Any, facts: Any) -> None:
    body = {"Resources": {"One": resource(one, properties, facts), "Two": resource(two, facts, properties)}}
    template = Template("Stack", "Stack", body)
    app = Assembly("app", {"Stack": template})
    assert permissions.compare(template, template) == workflows.compare(template, template) == []
    models.compare(app, app)
    assert access.compare(app.templates, app.templates).changes == ()
    for graph in graphs.pipelines(template):
        draw(graph, downwards=True)
        assert mermaid(graph).startswith("flowchart LR")


@given(JSON, JSON)
def test_definitions_of_any_shape_are_read_or_left_out(definition: Any, substitutions: Any) -> None:
    for given_as in (definition, json.dumps(definition)):
        properties = {"DefinitionString": given_as, "DefinitionSubstitutions": substitutions}
        machine = {"Type": workflows.TYPE, "Properties": properties}
        template = Template("Stack", "Stack", {"Resources": {"Machine": machine}})
        for flow in workflows.workflows(template).values():
            for graph in graphs.levels(flow):
                draw(graph, downwards=False)
