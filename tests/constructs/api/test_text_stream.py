"""A function URL that streams text: what it creates, who may call it, and what it refuses."""

from __future__ import annotations

import json
import runpy
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from tests.constructs.conftest import make_stack, resources

from cdk_inference import Capacity, ModelArtifact, ModelDelivery, Preprocess, PropError, TextStream
from cdk_inference.api import text_stream
from cdk_inference.common.contents import mode_of

if TYPE_CHECKING:
    from collections.abc import Callable

WRITER = Path(__file__).parents[2] / "e2e" / "triggers" / "app" / "writer"
TOKENIZER = WRITER / "tokenizer.json"
RECIPE = runpy.run_path(str(WRITER / "recipe.py"))["RECIPE"]


@pytest.fixture(scope="module")
def stream() -> Callable[..., TextStream]:
    def make(stack: cdk.Stack, **props: Any) -> TextStream:
        model = ModelArtifact(stack, "Model", recipe=props.pop("recipe", RECIPE))
        return TextStream(
            stack,
            "Texts",
            model=model,
            **{"preprocess": Preprocess.text(tokenizer=TOKENIZER, field="text"), "tokenizer": TOKENIZER, **props},
        )

    return make


@pytest.fixture(scope="module")
def made(stream: Callable[..., TextStream]) -> cdk.Stack:
    stack = make_stack()
    writer = stream(
        stack,
        stop=["\n\n"],
        content_types=["application/json"],
        allowed_origins=["https://example.com"],
        capacity=Capacity.snap_start(),
        timeout=cdk.Duration.minutes(3),
    )
    writer.grant_invoke(iam.User(stack, "Caller"))
    iam.User(stack, "Neighbour")
    return stack


def test_the_url_streams_to_principals_of_iam_alone(made: cdk.Stack) -> None:
    (url,) = resources(made, "AWS::Lambda::Url").values()
    properties = url["Properties"]
    assert (properties["AuthType"], properties["InvokeMode"]) == ("AWS_IAM", "RESPONSE_STREAM")
    assert (properties["Cors"]["AllowOrigins"], properties["Cors"]["AllowMethods"]) == (
        ["https://example.com"],
        ["POST"],
    )
    assert "idempotency-key" in properties["Cors"]["AllowHeaders"]
    assert not resources(made, "AWS::Lambda::Permission")
    (alias,) = resources(made, "AWS::Lambda::Alias").values()  # of the version that has the snapshot
    assert properties["Qualifier"] == alias["Properties"]["Name"]


def test_the_function_asks_for_events_itself(made: cdk.Stack) -> None:
    (function,) = resources(made, "AWS::Lambda::Function").values()
    properties = function["Properties"]
    variables = properties["Environment"]["Variables"]
    assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/var/task/write_text"
    assert (variables["TOKENIZER_FILE"], variables["API_CONTENT_TYPES"]) == ("tokenizer.json", "application/json")
    assert json.loads(variables["PREPROCESS_OPTIONS"])["inputs"]["max_tokens"] == "int64"
    assert json.loads(variables["TEXT_STOP"]) == ["\n\n"]
    assert (json.loads(variables["KEEP"]), json.loads(variables["PREPROCESS_OPTIONS"])["keep_stop"]) == (["stop"], True)
    assert (properties["SnapStart"], properties["Timeout"]) == ({"ApplyOn": "PublishedVersions"}, 180)
    (role,) = (one for name, one in resources(made, "AWS::IAM::Policy").items() if name.startswith("Texts"))
    actions = [statement["Action"] for statement in role["Properties"]["PolicyDocument"]["Statement"]]
    assert not [one for one in actions if "s3" in json.dumps(one) or "dynamodb" in json.dumps(one)]


def test_a_caller_may_ask_by_the_url_and_in_no_other_way(made: cdk.Stack) -> None:
    policies = {name: one for name, one in resources(made, "AWS::IAM::Policy").items() if not name.startswith("Texts")}
    ((name, policy),) = policies.items()
    assert name.startswith("Caller")
    statements = policy["Properties"]["PolicyDocument"]["Statement"]
    assert [(one["Action"], one["Condition"]) for one in statements] == [
        ("lambda:InvokeFunctionUrl", {"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}}),
        ("lambda:InvokeFunction", {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}),
    ]
    (alias,) = resources(made, "AWS::Lambda::Alias")
    assert [one["Resource"] for one in statements] == [{"Ref": alias}] * 2


def test_the_script_starts_the_process_in_place_of_lambdas_client(tmp_path: Path) -> None:
    script = tmp_path / "write_text"
    script.write_bytes(text_stream._SCRIPT)
    said = subprocess.run(
        ["/bin/sh", script, "echo", "/var/runtime/bootstrap.py"],
        env={"LAMBDA_TASK_ROOT": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert mode_of(text_stream._SCRIPT) == 0o755
    assert said.stdout.split() == [b"-m", b"inference_runtime.handlers.write_text"]


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"recipe": replace(RECIPE, outputs=RECIPE.outputs[1:])}, "model must write one token after the other"),
        ({"stop": [""]}, "stop must be at most 8 strings"),
        ({"content_types": ["JSON"]}, "content_types must be media types"),
        ({"tokenizer": WRITER / "none.json"}, "tokenizer must be an existing file"),
        ({"timeout": cdk.Duration.minutes(16)}, "timeout must be"),
        ({"delivery": ModelDelivery.image()}, "delivery of Stack/Texts must not be an image"),
    ],
)
def test_what_does_not_fit_is_refused(stream: Callable[..., TextStream], props: dict[str, Any], message: str) -> None:
    with pytest.raises(PropError, match=message):
        stream(make_stack(), **props)


@pytest.mark.parametrize("name", ["vpc", "capacity"])
def test_a_vpc_is_refused_since_nothing_is_streamed_there(stream: Callable[..., TextStream], name: str) -> None:
    stack = make_stack()
    given = ec2.Vpc(stack, "Vpc", max_azs=1, nat_gateways=0) if name == "vpc" else Capacity.managed_instances()
    with pytest.raises(PropError, match=f"^{name} must not put the function into a VPC, where Lambda streams no"):
        stream(stack, **{name: given})


def test_another_tokenizer_than_that_of_the_prompt_is_refused(
    stream: Callable[..., TextStream], tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(TOKENIZER.read_bytes())
    with pytest.raises(PropError, match="tokenizer must be that of preprocess"):
        stream(make_stack(), tokenizer=other)
