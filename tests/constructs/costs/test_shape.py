"""The estimates count what the constructs make."""

from __future__ import annotations

import json
import math

import aws_cdk as cdk
from aws_cdk import Duration
from aws_cdk.assertions import Template
from tests.constructs.conftest import RECIPE

from cdk_inference import Execution, InferencePipeline, ModelArtifact, Preprocess
from cdk_inference.capacity.network import InferenceNetwork
from cdk_inference.costs.options import MOST_IN_A_BATCH, CpuOption, GpuOption, PipelineShape
from cdk_inference.gpu.workflow import GpuWorkflow
from cdk_inference.triggers.s3 import MAX_BATCH_SIZE


def pipeline(**props: bool) -> InferencePipeline:
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), **props)


def test_a_fused_pipeline_has_one_function_and_no_tensors() -> None:
    resources = Template.from_stack(cdk.Stack.of(pipeline(execution=Execution.fused()))).to_json()["Resources"].values()
    (function,) = (r["Properties"] for r in resources if r["Type"] == "AWS::Lambda::Function")
    assert function["MemorySize"] == CpuOption("model", milliseconds=1).memory_size
    roles = {r["Metadata"]["cdk-inference"]["role"] for r in resources if "cdk-inference" in r.get("Metadata", {})}
    assert "work" not in roles


def test_transitions_of_a_batch_that_goes_well() -> None:
    made = pipeline()
    workflow = GpuWorkflow(
        made,
        "Gpu",
        inference=made.stages.inference,
        postprocess=made.stages.postprocess,
        trigger=made.trigger,
        max_wait=Duration.minutes(20),
    )
    machines = Template.from_stack(cdk.Stack.of(made)).find_resources("AWS::StepFunctions::StateMachine")
    (properties,) = (
        machine["Properties"]
        for machine in machines.values()
        if machine["Properties"].get("StateMachineType") != "EXPRESS"
    )
    parts = properties["DefinitionString"]["Fn::Join"][1]
    states = json.loads("".join(part if isinstance(part, str) else "token" for part in parts))
    passed = [states["StartAt"]]
    while True:
        state = states["States"][passed[-1]]
        following = state.get("Next") or state.get("Default")  # no condition holds if all goes well
        if following is None:
            break
        passed.append(following)
    assert len(passed) == PipelineShape().hand_over_transitions, passed
    assert workflow.state_machine


def test_no_shape_has_larger_batches_than_a_pipeline() -> None:
    assert MOST_IN_A_BATCH == MAX_BATCH_SIZE


def test_sizes_are_those_of_the_functions_and_the_batch() -> None:
    made, shape = pipeline(), PipelineShape()
    resources = Template.from_stack(cdk.Stack.of(made)).to_json()["Resources"].values()
    memory = sorted(r["Properties"]["MemorySize"] for r in resources if r["Type"] == "AWS::Lambda::Function")
    assert memory == sorted([shape.preprocess_memory, 1769, shape.postprocess_memory])
    (pipe,) = (r["Properties"] for r in resources if r["Type"] == "AWS::Pipes::Pipe")
    assert pipe["SourceParameters"]["SqsQueueParameters"]["BatchSize"] == shape.batch_size


def test_endpoints_are_those_of_the_network() -> None:
    stack = cdk.Stack(cdk.App(), "Stack")
    InferenceNetwork(stack, "Network")
    template = Template.from_stack(stack)
    endpoints = template.find_resources("AWS::EC2::VPCEndpoint")
    zones = sum(
        len(e["Properties"]["SubnetIds"])
        for e in endpoints.values()
        if e["Properties"].get("VpcEndpointType") == "Interface"
    )
    assert zones == GpuOption("gpu", milliseconds=1).endpoint_zones
    assert math.isclose(zones * 730 * 0.01, 29.2)  # what InferenceNetwork says
