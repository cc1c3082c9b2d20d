"""Judges of the templates: cfn-lint, cdk-nag in both of its major versions, checkov and cfn-guard."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.capacity.managed_instances import REGIONS as INSTANCE_REGIONS
from verify.judges import Finding, Verdict
from verify.references import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from verify.judges import Judge
    from verify.references import Reference
    from verify.tools import Tools

REGIONS = (
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "ca-central-1",
    "sa-east-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "af-south-1",
    "me-central-1",
    "me-south-1",
    "ap-east-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "cn-north-1",
    "cn-northwest-1",
)
"""Regions with EventBridge Pipes."""

PACKS = ("AwsSolutionsChecks", "HIPAASecurityChecks", "NIST80053R5Checks", "PCIDSS321Checks", "ServerlessChecks")
_ACKNOWLEDGED = "cdk-nag"
_TYPE = re.compile(r"\bAWS::\w+::\w+")
_MACHINES = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class ToolError(Exception):
    """A tool failed, so that it found nothing."""


class CfnLint:
    """AWS's linter of templates, with the resource specification of each Region."""

    name = "cfn-lint"
    tools = frozenset({"cfn-lint"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:  # noqa: ARG002 - it is a tool of tests
        """Lint all templates at once, those with instances only for the Regions that have them."""
        on_instances = [each for each in references if "AWS::Lambda::CapacityProvider" in _kinds(each)]
        others = [each for each in references if each not in on_instances]
        findings = [*self._lint(on_instances, INSTANCE_REGIONS), *self._lint(others, REGIONS)]
        return Verdict(len(on_instances) * len(INSTANCE_REGIONS) + len(others) * len(REGIONS), findings)

    @staticmethod
    def _lint(references: Sequence[Reference], regions: Sequence[str]) -> Iterator[Finding]:
        linter = Path(sys.executable).with_name("cfn-lint")
        files = {str(reference.path): reference for reference in references}
        command = [str(linter), "--format", "json", "--regions", *regions, "--", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for match in _json(done):
            reference = files[match["Filename"]]
            path = match["Location"]["Path"] or []
            yield _finding("cfn-lint", match["Rule"]["Id"], reference, str(path[1]), match["Message"])


@dataclass(frozen=True)
class CdkNag:
    """The packs of rules of cdk-nag, which look at the constructs of an app.

    Findings that the constructs acknowledge have the tool ``cdk-nag``, and the explanation is in our file. Others have
    the version in their tool's name, and fail.

    Parameters
    ----------
    version
        Its major version: users have either.
    """

    version: int

    @property
    def name(self) -> str:
        """The judge's name in the table."""
        return f"cdk-nag {self.version}"

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools in the findings."""
        return frozenset({_ACKNOWLEDGED, self.name})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Synthesize the apps once more, with the packs."""
        first = [str(tools.cdk_nag_2())] if self.version == 2 else []  # noqa: PLR2004
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*first, os.environ.get("PYTHONPATH", "")])}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "findings.json"
            command = [sys.executable, "-m", "verify.nag", str(self.version), folder, str(out)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if not out.exists():
                raise ToolError(f"{self.name}: {done.stdout}{done.stderr}")
            found = json.loads(out.read_text(encoding="utf-8"))
        findings = [
            Finding(
                _ACKNOWLEDGED if acknowledged else self.name,
                rule,
                path.partition("/")[0],
                path.partition("/")[2],
                message=message,
            )
            for rule, path, acknowledged, message in found
        ]
        return Verdict(len(references) * len(PACKS), findings)


class Checkov:
    """Prisma Cloud's checks of templates."""

    name = "checkov"
    tools = frozenset({"checkov"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Check all templates at once, without asking any server."""
        files = [argument for each in references for argument in ("--file", str(each.path))]
        options = "--framework cloudformation --output json --quiet --compact --skip-download"
        command = [str(tools.command("checkov")), *options.split(), *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        report = _json(done)
        by_name = {each.path.name: each for each in references}
        checked, findings = 0, []
        for part in report if isinstance(report, list) else [report]:
            checked += part["summary"]["passed"] + part["summary"]["failed"]
            for failed in part["results"]["failed_checks"]:
                reference = by_name[Path(failed["file_path"]).name]
                subject = failed["resource"].rpartition(".")[2]
                findings.append(_finding("checkov", failed["check_id"], reference, subject, failed["check_name"]))
        return Verdict(checked, findings)


class CfnGuard:
    """AWS's engine for rules, with the rules of Control Tower."""

    name = "cfn-guard"
    tools = frozenset({"cfn-guard"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Evaluate the rules on all templates, without those about types that a template has none of.

        Such a rule has nothing to say, and an evaluation takes as long as the template is large.
        """
        package = tools.package("@cdklabs/cdk-validator-cfnguard")
        system = "macos" if sys.platform == "darwin" else "ubuntu"
        guard = package / "bin" / system / _MACHINES[platform.machine()] / "cfn-guard"
        guard.chmod(0o755)
        rules = package / "rules" / "control-tower" / "cfn-guard"
        about = {path: frozenset(_TYPE.findall(path.read_text("utf-8"))) for path in sorted(rules.rglob("*.guard"))}
        checked = 0
        findings, named = [], set()
        for reference in references:
            kinds = _kinds(reference)
            asked = [path for path, types in about.items() if not types or types & kinds]
            checked += len(asked)
            for result in self._results(guard, asked, reference) if asked else ():
                message = result["message"]["text"]
                subject = re.search(r"/Resources/(\w+)", message)
                finding = _finding(
                    "cfn-guard", result["ruleId"], reference, subject[1] if subject else "", message[:200]
                )
                findings.append(finding)
                if finding.subject:
                    named.add((finding.rule, finding.app))
        # A rule reports a clause in each of its branches; those without a resource say nothing more.
        findings = [each for each in findings if each.subject or (each.rule, each.app) not in named]
        return Verdict(checked, findings)

    @staticmethod
    def _results(guard: Path, rules: Sequence[Path], reference: Reference) -> Iterator[dict[str, Any]]:
        options = "--structured --output-format sarif --show-summary none"
        command = [str(guard), "validate", "--rules", *map(str, rules), "--data", str(reference.path), *options.split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for run in _json(done)["runs"]:
            yield from run["results"]


def _kinds(reference: Reference) -> set[str]:
    return {resource["Type"] for resource in reference.resources.values()}


def _finding(tool: str, rule: str, reference: Reference, subject: str, message: str) -> Finding:
    kind = reference.resources.get(subject, {}).get("Type", "")
    return Finding(tool, rule, reference.name, subject, kind, message)


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise ToolError(f"{done.args[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}") from None


JUDGES: Sequence[Judge] = (CdkNag(2), CdkNag(3), CfnLint(), CfnGuard(), Checkov())
