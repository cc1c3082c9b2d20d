"""Create the resources of the apps in moto, so that nothing rests on the quirks of one emulator.

moto creates what it knows, and delivers the event of an object through the rule into the queue. `LACKS` lists
what it does not know: these parts are tried in the embedded AWS alone. It runs neither pipes nor our functions, and we
do not let it run the definitions: `verify.definitions` does, with the reference JSONata.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.judges import Finding, Verdict
from verify.tools import MOTO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verify.judges import Judge
    from verify.references import Reference
    from verify.tools import Tools

LACKS = frozenset(
    {
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        "AWS::CDK::Metadata",
        "AWS::CloudWatch::Alarm",
        "AWS::DynamoDB::GlobalTable",
        "AWS::EC2::FlowLog",
        "AWS::Lambda::Alias",
        "AWS::Lambda::CapacityProvider",
        "AWS::Lambda::EventInvokeConfig",
        "AWS::Lambda::EventSourceMapping",
        "AWS::Lambda::Permission",
        "AWS::Lambda::Version",
        "AWS::Pipes::Pipe",
        "AWS::S3::BucketPolicy",
        "AWS::S3Vectors::Index",
        "AWS::S3Vectors::VectorBucket",
        "AWS::SNS::Subscription",
        "AWS::SNS::TopicPolicy",
        "AWS::SQS::QueuePolicy",
        "AWS::SageMaker::Endpoint",
        "AWS::SageMaker::EndpointConfig",
        "AWS::Scheduler::Schedule",
        "AWS::Scheduler::ScheduleGroup",
        "AWS::SecretsManager::Secret",
        "Custom::RecordedModels",
    }
)
"""Types that moto does not create, or not as we use them; the page about development names them."""

LEFT_OUT = frozenset({"Apis"})
"""Apps that are not deployed: moto knows an API, but neither its stages nor its keys, and fails at its deployment."""


class Moto:
    """Let moto create the resources, and look at them."""

    name = "moto"
    tools = frozenset({"moto"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Create the resources of each app, and put objects into its inbox."""
        shown = [reference for reference in references if reference.name not in LEFT_OUT]
        return deploy({reference.name: reference.template for reference in shown}, tools)


JUDGES: Sequence[Judge] = (Moto(),)


def deploy(templates: Mapping[str, Mapping[str, Any]], tools: Tools) -> Verdict:
    """Create the resources of apps, and put objects into their inboxes.

    Parameters
    ----------
    templates
        The apps' templates, by name.
    tools
        Where moto is.
    """
    python = tools.environment(MOTO) / "bin" / "python"
    script = Path(__file__).with_name("deploy.py")
    done = subprocess.run([python, script], input=json.dumps(templates), stdout=subprocess.PIPE, text=True, check=True)
    findings, checked = [], 0
    for app, said in json.loads(done.stdout).items():
        checked += said["checked"]
        findings += [Finding("moto", "problem", app, problem.split()[0], "", problem) for problem in said["problems"]]
        findings += [
            Finding("moto", "lacks", app, kind, kind, "moto does not create it; add it to LACKS, and to the page")
            for kind in set(said["lacks"]) - LACKS
        ]
    return Verdict(checked, findings)
