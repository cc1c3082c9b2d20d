"""State machines of ours in the embedded AWS, with small functions in the place of the stages."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import boto3
from aws_cdk.assertions import Template
from botocore.config import Config

from cdk_inference.local import aws
from cdk_inference.local.emulator.emulator import Emulator

if TYPE_CHECKING:
    from pathlib import Path

    import aws_cdk as cdk

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": ["lambda.amazonaws.com", "states.amazonaws.com"]},
            "Action": "sts:AssumeRole",
        }
    ],
}
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class QuickEmulator(Emulator):
    """An embedded AWS in which a workflow's pauses take a hundredth of their time."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"SFN_WAIT_SCALE": "0.01"}


class Lines:
    """Lines that functions append to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._taken = 0

    def take(self) -> list[str]:
        """Return the whole lines since the last time."""
        written = self.file.read_bytes()[self._taken :] if self.file.exists() else b""
        whole = written[: written.rfind(b"\n") + 1]
        self._taken += len(whole)
        return whole.decode().splitlines()


class Embedded:
    """Functions and state machines in the embedded AWS."""

    def __init__(self, emulator: Emulator) -> None:
        credentials = aws.root_credentials(emulator.endpoint)
        self._session = {
            "endpoint_url": emulator.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": credentials["AccessKeyId"],
            "aws_secret_access_key": credentials["SecretAccessKey"],
            "config": Config(inject_host_prefix=False, read_timeout=300),  # "sync-127.0.0.1" is not a host
        }
        self._clients: dict[str, Any] = {}
        iam = self.client("iam")
        self._role = iam.create_role(RoleName="any", AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]["Arn"]
        iam.put_role_policy(RoleName="any", PolicyName="all", PolicyDocument=json.dumps(_ALL))

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(service, **self._session)
        return self._clients[service]

    def function(self, name: str, source: str, *, timeout: int = 60, **environment: str) -> None:
        """Create a function of this source, whose handler is called `handler`."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("stage.py", source)
            # Else each new process would import the real one for MiniStack, and processes die often here.
            file.writestr("botocore.py", "raise ImportError('these functions call nobody')")
        self.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.11",
            Handler="stage.handler",
            Role=self._role,
            Code={"ZipFile": archive.getvalue()},
            Environment={"Variables": environment},
            Timeout=timeout,
        )

    def queue(self, name: str) -> str:
        return str(self.client("sqs").create_queue(QueueName=name)["QueueUrl"])

    def machine(self, name: str, definition: str, kind: str) -> str:
        made = self.client("stepfunctions").create_state_machine(
            name=name, definition=definition, roleArn=self._role, type=kind
        )
        return str(made["stateMachineArn"])

    def messages(self, queue: str) -> list[str]:
        """Take all messages out of a queue, and return their bodies."""
        return [body for body, _ in self.letters(queue)]

    def letters(self, queue: str) -> list[tuple[str, dict[str, Any]]]:
        """Take all messages out of a queue, and return their bodies and attributes."""
        sqs, letters = self.client("sqs"), []
        asked = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
        while found := sqs.receive_message(**asked).get("Messages"):
            for message in found:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                letters.append((message["Body"], message.get("MessageAttributes", {})))
        return letters


def definition(stack: cdk.Stack, machine: Any, **names: str) -> str:
    """Return the definition of a state machine construct; functions are named by their descriptions.

    Parameters
    ----------
    names
        Other resources of the definition, by a part of their logical ids.
    """
    resources = Template.from_stack(stack).to_json()["Resources"]
    found = {"AWS::Partition": "aws"}
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::Lambda::Alias":
            function = resources[resource["Properties"]["FunctionName"]["Ref"]]
            found[logical_id] = (
                f"arn:aws:lambda:us-east-1:000000000000:function:{function['Properties']['Description']}"
            )
        for part, value in names.items():
            if part in logical_id:
                found[logical_id] = value
    properties = resources[stack.get_logical_id(machine.node.default_child)]["Properties"]
    pieces = properties["DefinitionString"]["Fn::Join"][1]
    return "".join(piece if isinstance(piece, str) else found[piece["Ref"]] for piece in pieces)
