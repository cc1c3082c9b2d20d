"""Apps that name their accounts and regions are deployed there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from tests.assemblies import synthesized

from cdk_inference.local import LocalCloud, LocalError, aws
from cdk_inference.local.cdk import _ADMINISTRATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TWO = """
import aws_cdk as cdk
from aws_cdk import aws_sqs as sqs

app = cdk.App()
for account, region in (("111111111111", "eu-west-1"), ("222222222222", "ap-south-1")):
    stage = cdk.Stage(app, region, env=cdk.Environment(account=account, region=region))
    stack = cdk.Stack(stage, "Queues", stack_name="Queues")
    sqs.Queue(stack, "Queue", queue_name=f"queue-of-{account}")
app.synth()
"""

LOOKS_UP = """
import json, os, pathlib

KEY = "availability-zones:account=111111111111:region=eu-west-1"
asked = {"key": KEY, "provider": "availability-zones", "props": {"account": "111111111111", "region": "eu-west-1"}}
asked["props"]["lookupRoleArn"] = (
    "arn:${AWS::Partition}:iam::111111111111:role/cdk-hnb659fds-lookup-role-111111111111-eu-west-1"
)
zones = json.loads(os.environ["CDK_CONTEXT_JSON"]).get(KEY)
missing = {} if zones else {"missing": [asked]}
outputs = {"Zones": {"Value": ",".join(zones or [])}}
template = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": outputs}
stack = {"type": "aws:cloudformation:stack", "environment": "aws://111111111111/eu-west-1", "displayName": "Of/Zones"}
stack["properties"] = {"templateFile": "zones.json", "stackName": "Zones"}
stage = {"type": "cdk:cloud-assembly", "properties": {"directoryName": "assembly-Of"}}
folder = pathlib.Path(os.environ["CDK_OUTDIR"])
for place, artifacts in ((folder, {"assembly-Of": stage}), (folder / "assembly-Of", {"Zones": stack})):
    place.mkdir(parents=True, exist_ok=True)
    (place / "manifest.json").write_text(json.dumps({"version": "36.0.0", "artifacts": artifacts} | missing))
(folder / "assembly-Of" / "zones.json").write_text(json.dumps(template))
"""
"""An app with a stage whose stack looks up the zones of its region, as `ec2.Vpc` does, but without jsii."""


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud(retry_after=0) as cloud:
        yield cloud


def test_a_pinned_account_and_region_work_with_data_in_another_stack(
    cloud: LocalCloud, ready: Callable[..., Path]
) -> None:
    app = ready(env="123456789012/eu-west-1", elsewhere="true")
    assert cloud.deploy(app) == ["Data", "LocalProbe"]
    assert cloud.env == ("123456789012", "eu-west-1")
    pipeline = cloud.pipeline("LocalProbe")
    uploads = [pipeline.put("in/good", b"x"), pipeline.put("in/poison", b"x")]
    lines: list[str] = []
    outcomes = pipeline.wait_for(uploads, 600, on_line=lines.append)
    assert [outcome.status for outcome in outcomes] == ["SUCCEEDED", "DEAD_LETTER"]
    assert {outcome.key for outcome in cloud.results()} == {"in/good", "in/poison"}
    assert any(message.startswith("scoring in/good") for _, _, message in cloud.logs())
    arn = cloud.client("sts").get_caller_identity()["Arn"]
    assert (arn, cloud.client("s3").meta.region_name) == ("arn:aws:iam::123456789012:root", "eu-west-1")
    assert cloud.client("sqs", account="000000000000", region="us-east-1").list_queues().get("QueueUrls", []) == []
    assert cloud.environment()["AWS_REGION"] == "eu-west-1"
    assert cloud.diff(app) == ""
    assert cloud.refusals == []


def test_two_accounts_and_regions_work(cloud: LocalCloud, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TWO)
    (tmp_path / "cdk.json").write_text("{}")
    names = cloud.deploy(synthesized(tmp_path / "app.py", tmp_path / "made"))
    assert names == ["Queues"]
    for account, region in (("111111111111", "eu-west-1"), ("222222222222", "ap-south-1")):
        [queue] = cloud.stack("Queues", region=region).resources(type="AWS::SQS::Queue")
        assert queue.env == (account, region)
        [url] = cloud.client("sqs", account=account, region=region).list_queues()["QueueUrls"]
        assert url.endswith(f"queue-of-{account}")
    with pytest.raises(LocalError, match="111111111111/eu-west-1, 222222222222/ap-south-1; choose one"):
        cloud.stack("Queues")
    # To the CLI, the bootstrap stack is as it would have made it.
    lines: list[str] = []
    trusting = ["--trust", aws.ACCOUNT, "--cloudformation-execution-policies", _ADMINISTRATOR]
    env = aws.Env("111111111111", "eu-west-1")
    cloud._cdk(lines.append, env).run(
        "bootstrap", f"aws://{env.account}/{env.region}", *trusting, cwd=tmp_path / "made"
    )
    assert any(line.endswith("bootstrapped (no changes).") for line in lines), lines


@pytest.mark.parametrize("known", [{}, {"availability-zones:account=111111111111:region=eu-west-1": ["eu-west-1z"]}])
def test_lookups_of_a_stage_work_and_leave_no_trace(
    cloud: LocalCloud, tmp_path: Path, known: dict[str, list[str]]
) -> None:
    (tmp_path / "app.py").write_text(LOOKS_UP)
    (tmp_path / "cdk.json").write_text(json.dumps({"app": f"{sys.executable} app.py"}))
    committed = tmp_path / "cdk.context.json"
    if known:
        committed.write_text(json.dumps(known))
    before = committed.stat().st_mtime_ns if known else None
    assert cloud.deploy(tmp_path) == ["Zones"]
    [output] = cloud.client("cloudformation").describe_stacks(StackName="Zones")["Stacks"][0]["Outputs"]
    assert output["OutputValue"] == ("eu-west-1z" if known else "eu-west-1a,eu-west-1b,eu-west-1c")
    assert cloud.diff(tmp_path) == ""
    assert (committed.stat().st_mtime_ns if committed.exists() else None) == before
