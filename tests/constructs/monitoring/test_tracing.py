"""Traces of a pipeline: X-Ray's, which are always on, and OpenTelemetry's, which a layer adds to a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_lambda as lambda_
from tests.constructs.conftest import resources

if TYPE_CHECKING:
    from collections.abc import Callable

    import aws_cdk as cdk

    from cdk_inference import InferencePipeline

LAYER = "arn:aws:lambda:eu-central-1:123456789012:layer:AWSOpenTelemetryDistroPython:1"


def test_functions_and_workflows_are_traced_and_a_layer_is_added_to_one_stage(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    stage = pipeline().stages.postprocess
    stage.function.add_layers(lambda_.LayerVersion.from_layer_version_arn(stack, "Telemetry", LAYER))
    stage.add_variables({"AWS_LAMBDA_EXEC_WRAPPER": "/opt/otel-instrument"})
    functions = [function["Properties"] for function in resources(stack, "AWS::Lambda::Function").values()]
    assert {function["TracingConfig"]["Mode"] for function in functions} == {"Active"}
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    assert machine["Properties"]["TracingConfiguration"] == {"Enabled": True}
    (wrapped,) = (one for one in functions if "AWS_LAMBDA_EXEC_WRAPPER" in one["Environment"]["Variables"])
    assert wrapped["Layers"] == [LAYER]
    assert "outputs_postprocessor" in wrapped["Environment"]["Variables"]["STAGE_FUNCTION"]
    assert [one.get("Layers") for one in functions if one is not wrapped] == [None, None]
