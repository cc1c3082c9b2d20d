"""Tags, aspects, permissions boundaries and stages do with a pipeline what they do with CDK's own constructs."""

from __future__ import annotations

import json
from pathlib import Path

import aws_cdk as cdk
import jsii
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from tests.constructs.conftest import RECIPE, resources

from cdk_inference import (
    Capacity,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    Route,
    Routing,
    SageMakerAsync,
)
from cdk_inference.model import Float16

BOUNDARY = "arn:aws:iam::111122223333:policy/boundary"


def add_everything(stack):
    """Add a pipeline with each kind of part: both GPUs, a cascade, the user's function, capacities and look-ups."""

    def route(name, inference=None, precision=None):
        model = ModelArtifact(stack, f"Model{name}", recipe=RECIPE, precision=precision)
        return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=inference or Inference.cpu())

    small = route("small", Inference.cpu(capacity=Capacity.keep_warm(2)))
    large, other = route("large", Inference.gpu(), Float16()), route("other", Inference.gpu(backend=SageMakerAsync()))
    decided = Routing.by_function(
        f"{Path(__file__).parents[1] / 'routing' / 'deciding.py'}:decide",
        {"left": Routing.cascade(first=small, then=large, threshold=0.5), "right": other},
    )
    return InferencePipeline(stack, "Photos", routing=Routing.by_tag("class", {"cheap": small}, otherwise=decided))


def make_app(**context):
    return cdk.App(context={"aws:cdk:bundling-stacks": [], **context})


def template_of(app, name="Stack"):
    return app.synth().get_stack_by_name(name).template


@pytest.fixture
def app():
    return make_app()


@pytest.fixture
def everything(app):
    stack = cdk.Stack(app, "Stack")
    add_everything(stack)
    return stack


# --- tags ---


def test_every_resource_that_takes_tags_has_those_of_the_app(app, everything):
    taggable = [
        resource
        for resource in everything.node.find_all()
        if cdk.CfnResource.is_cfn_resource(resource) and cdk.TagManager.of(resource) is not None
    ]
    ids = {everything.get_logical_id(resource) for resource in taggable}
    cdk.Tags.of(app).add("team", "vision")
    found = template_of(app)["Resources"]
    tagged = {name for name, resource in found.items() if has_tag(resource["Properties"])}
    assert ids <= tagged
    kinds = {found[name]["Type"] for name in tagged}
    assert kinds >= {
        "AWS::DynamoDB::GlobalTable",
        "AWS::Events::Rule",
        "AWS::IAM::Role",
        "AWS::KMS::Key",
        "AWS::Lambda::CapacityProvider",
        "AWS::Lambda::Function",
        "AWS::Logs::LogGroup",
        "AWS::Pipes::Pipe",
        "AWS::S3::Bucket",
        "AWS::SQS::Queue",
        "AWS::SageMaker::Endpoint",
        "AWS::StepFunctions::StateMachine",
    }


def has_tag(properties):
    text = json.dumps(properties)
    return '{"Key": "team", "Value": "vision"}' in text or '"team": "vision"' in text


# --- aspects ---


@jsii.implements(cdk.IAspect)
class AddVariable:
    def visit(self, node):
        if isinstance(node, lambda_.Function):
            node.add_environment("TEAM", "vision")


@jsii.implements(cdk.IAspect)
class RefuseBuckets:
    def visit(self, node):
        if node.node.path.endswith("Inbox/Resource"):
            cdk.Annotations.of(node).add_error("no buckets here")


def test_an_aspect_that_changes_functions_makes_new_versions(pipelines):
    plain, changed = pipelines(None, AddVariable())
    functions = resources(changed, "AWS::Lambda::Function").values()
    assert {f["Properties"]["Environment"]["Variables"]["TEAM"] for f in functions} == {"vision"}
    before, after = (set(resources(template, "AWS::Lambda::Version")) for template in (plain, changed))
    assert len(before) == len(after) == len(functions)
    assert not before & after


@pytest.fixture
def pipelines():
    """Return the templates of equal pipelines, each with an aspect."""

    def make(*aspects):
        templates = []
        for aspect in aspects:
            app = make_app()
            stack = cdk.Stack(app, "Stack")
            model = ModelArtifact(stack, "Model", recipe=RECIPE)
            InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))
            if aspect is not None:
                cdk.Aspects.of(stack).add(aspect)
            templates.append(template_of(app))
        return templates

    return make


def test_removal_policies_of_a_stack_hold_for_the_pipeline(app, everything):
    cdk.RemovalPolicies.of(everything).destroy()
    for resource in template_of(app)["Resources"].values():
        assert resource.get("DeletionPolicy") == "Delete", resource["Type"]


def test_an_aspect_that_refuses_a_part_fails(app, everything):
    cdk.Aspects.of(app).add(RefuseBuckets())
    messages = app.synth().get_stack_by_name("Stack").messages
    assert [(m.id, m.entry.data) for m in messages if str(m.level).endswith("ERROR")] == [
        ("/Stack/Photos/Trigger/Inbox/Resource", "no buckets here")
    ]


# --- permissions boundaries ---


def boundaries(template):
    roles = resources(template, "AWS::IAM::Role")
    assert len(roles) > 10
    return [json.dumps(role["Properties"].get("PermissionsBoundary")) for role in roles.values()]


def test_a_boundary_of_the_scope_is_that_of_every_role(app, everything):
    boundary = iam.ManagedPolicy.from_managed_policy_arn(everything, "Boundary", BOUNDARY)
    iam.PermissionsBoundary.of(app).apply(boundary)
    assert set(boundaries(template_of(app))) == {json.dumps(BOUNDARY)}


def test_a_boundary_of_the_context_is_that_of_every_role():
    app = make_app(**{"@aws-cdk/core:permissionsBoundary": {"name": "boundary"}})
    add_everything(cdk.Stack(app, "Stack"))
    (found,) = set(boundaries(template_of(app)))
    assert ":policy/boundary" in found


def test_a_boundary_of_a_stage_is_that_of_every_role(app):
    stage = cdk.Stage(app, "Prod", permissions_boundary=cdk.PermissionsBoundary.from_arn(BOUNDARY))
    add_everything(cdk.Stack(stage, "Stack"))
    template = app.synth().get_nested_assembly("assembly-Prod").get_stack_by_name("Prod-Stack").template
    assert set(boundaries(template)) == {json.dumps(BOUNDARY)}


# --- stages ---


def test_stages_of_an_app_synthesize_the_same_pipeline(app):
    for name in ("Blue", "Green"):
        add_everything(cdk.Stack(cdk.Stage(app, name), "Stack"))
    assembly = app.synth()
    blue, green = (
        assembly.get_nested_assembly(f"assembly-{name}").get_stack_by_name(f"{name}-Stack").template
        for name in ("Blue", "Green")
    )
    # CDK names the stage in the ids of permissions; ids of versions hash the environment, which names the stack.
    others = ("AWS::Lambda::Permission", "AWS::Lambda::Version")
    ids = [{name for name, r in t["Resources"].items() if r["Type"] not in others} for t in (blue, green)]
    assert ids[0] == ids[1]
    text = json.dumps(blue)
    assert "Blue-Stack/Photos" in text
    assert "Green" not in text


def test_a_stage_that_cannot_work_fails(tmp_path):
    app = cdk.App(outdir=str(tmp_path), context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(cdk.Stage(app, "Prod"), "Stack")
    add_everything(stack)
    (gpu,) = [
        node
        for node in stack.node.find_all()
        if isinstance(node, lambda_.CfnFunction) and node.node.path.endswith("OnGpu/Function/Resource")
    ]
    gpu.add_property_override("MemorySize", 1024)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
