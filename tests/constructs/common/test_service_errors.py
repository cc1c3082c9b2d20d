"""Every error that AWS documents for our calls is classified, and each function's state heeds it."""

from __future__ import annotations

import ast
from pathlib import Path

import botocore.session
import pytest
from aws_cdk import Duration
from botocore import xform_name
from tests.constructs.conftest import make_stack

from cdk_inference import StageFunction
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common.service_errors import ERRORS, Kind, state_errors
from cdk_inference.stages.base import CONFIGURATION_ERRORS, NOT_READY_ERRORS, TRANSIENT_ERRORS
from inference_runtime.stages.dynamo_sink import NEVER_WRITTEN
from inference_runtime.stages.s3_source import _GONE as GONE

SERVICES = {"states": "stepfunctions", "sagemaker": "sagemaker-runtime"}
RUNTIME = Path(__file__).parents[3] / "lambda_src" / "inference_runtime"
_session = botocore.session.get_session()


def model(call: str):
    service, _, operation = call.partition(":")
    return _session.get_service_model(SERVICES.get(service, service)).operation_model(operation)


@pytest.mark.parametrize("call", ERRORS)
def test_every_error_of_botocores_model_is_classified(call):
    assert {shape.error_code for shape in model(call).error_shapes} - ERRORS[call].keys() == set()


def test_every_call_of_the_runtime_is_in_the_table():
    """A call is known by its method's name, which botocore makes of the operation's."""
    methods = {
        xform_name(name): f"{service}:{name}"
        for service in ("lambda", "states", "sqs", "s3", "dynamodb", "sagemaker", "kms")
        for name in _session.get_service_model(SERVICES.get(service, service)).operation_names
    }
    called = {
        methods[node.func.attr]
        for path in RUNTIME.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods
    }
    called -= {"lambda:Invoke", "dynamodb:Scan"}  # methods of these names, of other classes
    assert called - ERRORS.keys() == set()
    assert {"s3:GetObject", "dynamodb:PutItem", "sagemaker:InvokeEndpointAsync", "states:SendTaskSuccess"} <= called


@pytest.fixture
def state():
    stack = make_stack()
    stage = StageFunction(
        stack,
        "Stage",
        package=ZipPackage(handler="stage.handler", runtime_requirements="postprocess"),
        environment={},
        description="any",
        memory_size=128,
        timeout=Duration.seconds(5),
    )
    return stack.resolve(stage.task(stack, "Task", payload={}).to_state_json())


def test_what_is_not_ready_is_waited_for_longer_than_what_is_busy(state):
    waits = {}
    for retry in state["Retry"]:
        pauses = [
            min(retry["IntervalSeconds"] * retry["BackoffRate"] ** n, retry.get("MaxDelaySeconds", 3600))
            for n in range(retry["MaxAttempts"])
        ]
        waits |= dict.fromkeys(retry["ErrorEquals"], sum(pauses))
    assert waits["Lambda.SnapStartNotReadyException"] == waits["Lambda.ENINotReadyException"] == 65
    assert waits["Lambda.TooManyRequestsException"] == waits["RetryableError"] == 15
    assert waits.keys() == set(TRANSIENT_ERRORS)


def test_no_error_of_lambda_is_in_two_classes():
    classes = [state_errors("lambda:Invoke", kind) for kind in Kind]
    assert sum(map(len, classes)) == len({name for names in classes for name in names})
    assert set(NOT_READY_ERRORS) < set(TRANSIENT_ERRORS)
    assert not set(TRANSIENT_ERRORS) & set(CONFIGURATION_ERRORS)
    assert not {"Lambda.Unknown", "Sandbox.Timedout", "Lambda.RequestTooLargeException"} & {
        *TRANSIENT_ERRORS,
        *CONFIGURATION_ERRORS,
    }


def test_the_runtime_takes_the_same_errors_for_the_items():
    def codes(call, kind):
        return {code for code, one in ERRORS[call].items() if one is kind}

    assert codes("dynamodb:PutItem", Kind.ITEM) == NEVER_WRITTEN
    assert codes("s3:GetObject", Kind.ITEM) == GONE.keys() | {"MethodNotAllowed"}  # no event is about a delete marker
    tree = ast.parse((RUNTIME / "handlers" / "callback.py").read_text(encoding="utf-8"))  # importing it takes a table
    (over,) = (
        node.value.args[0]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_OVER"
    )
    assert codes("states:SendTaskSuccess", Kind.DONE) == ast.literal_eval(over)


def test_states_have_names_as_step_functions_spells_them():
    assert "StepFunctions.ExecutionAlreadyExistsException" in state_errors("states:StartExecution", Kind.DONE)
    assert "SQS.QueueDoesNotExistException" in state_errors("sqs:SendMessage", Kind.CONFIGURATION)
    assert "Lambda.EC2ThrottledException" in state_errors("lambda:Invoke", Kind.NOT_READY)
