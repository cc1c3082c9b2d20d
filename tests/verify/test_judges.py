"""Each finding of a judge must be explained, and each explanation must have a finding."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from verify.judges import EXPLANATIONS, Explanation, Finding, Verdict, read_explanations, unexplained
from verify.references import Reference
from verify.templates import CfnGuard, CfnLint, ToolError, _json
from verify.tools import Tools, UnavailableError

from verify import __main__ as command

ROOT = Path(__file__).parents[2]
NEW = Finding("checkov", "CKV_NEW", "Default", "PhotosFunction", "AWS::Lambda::Function", "a rule of tomorrow")
FUNCTION = Finding("checkov", "CKV_AWS_117", "Default", "PhotosFunction", "AWS::Lambda::Function", "no VPC")


def explained(**changes):
    return Explanation(**{"name": "vpc", "reason": "why", "rules": {"checkov": ("CKV_AWS_117",)}, **changes})


def test_an_explained_finding_is_no_news():
    assert unexplained([FUNCTION], [explained()], {"checkov"}) == ([], [])


@pytest.mark.parametrize(
    "explanation",
    [
        explained(rules={"checkov": ("CKV_AWS_116",)}),
        explained(rules={"cfn-guard": ("CKV_AWS_117",)}),
        explained(kinds=("AWS::S3::Bucket",)),
        explained(subjects="^Other"),
    ],
    ids=["rule", "tool", "kind", "subject"],
)
def test_a_finding_that_is_not_explained_fails(explanation):
    missing, stale = unexplained([FUNCTION], [explanation], {"checkov"})
    assert missing == [FUNCTION]
    assert len(stale) == ("checkov" in explanation.rules)


def test_an_explanation_of_nothing_fails_if_its_tool_was_asked():
    assert unexplained([], [explained()], {"checkov"}) == ([], ["vpc: checkov CKV_AWS_117"])
    assert unexplained([], [explained()], {"cfn-guard"}) == ([], [])


@pytest.mark.parametrize("rule", ["AwsSolutions-IAM5[Resource::*]", "AwsSolutions-IAM5"])
def test_details_of_cdk_nag_are_covered_in_both_versions(rule):
    one = explained(rules={"cdk-nag": ("AwsSolutions-IAM5[Resource::*]",)})
    finding = Finding("cdk-nag", rule, "Default", "Photos/Role")
    assert unexplained([finding], [one], {"cdk-nag"}) == ([], [])
    other = Finding("cdk-nag", "AwsSolutions-IAM5[Action::s3:*]", "Default", "Photos/Role")
    assert unexplained([other], [one], set())[0] == [other]


def test_a_tool_that_says_nothing_readable_fails(tmp_path):
    import subprocess

    done = subprocess.run([sys.executable, "-c", "print('Traceback')"], capture_output=True, text=True, check=False)
    with pytest.raises(ToolError, match="Traceback"):
        _json(done)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict(1, [NEW]), 1), (Verdict(0), 1), (Verdict(1), 0)],
    ids=["finding", "nothing-asked", "clean"],
)
def test_the_exit_code_says_whether_all_is_explained(monkeypatch, capsys, verdict, code):
    class Planted:
        name, tools = "planted", frozenset({"planted"})

        def examine(self, *_):
            return verdict

    monkeypatch.setattr(command, "references", list)
    monkeypatch.setattr(command.importlib, "import_module", lambda _: type("Module", (), {"JUDGES": (Planted(),)}))
    monkeypatch.setattr(sys, "argv", ["verify", "templates"])
    assert command.main() == code
    out = capsys.readouterr().out
    assert ("unexplained: checkov CKV_NEW: Default/PhotosFunction" in out) == bool(verdict.findings)


def test_an_unknown_group_fails(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verify", "template"])
    with pytest.raises(SystemExit):
        command.main()
    assert "group must be one of templates" in capsys.readouterr().err


def test_cfn_lint_names_the_resource_and_the_template(tmp_path):
    bad = {"Resources": {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"Colour": "red"}}}}
    path = tmp_path / "Bad.template.json"
    path.write_text(json.dumps(bad), "utf-8")
    (finding,) = CfnLint._lint([Reference("Bad", path)], ["us-east-1"])
    assert (finding.rule, finding.app, finding.subject, finding.kind) == ("E3002", "Bad", "Bucket", "AWS::S3::Bucket")


@pytest.mark.slow
def test_cfn_guard_asks_what_is_about_the_types_of_a_template(tmp_path):
    apps = {
        "Bucket": {"Resources": {"Open": {"Type": "AWS::S3::Bucket"}}},
        "Both": {"Resources": {"Open": {"Type": "AWS::S3::Bucket"}, "Plain": {"Type": "AWS::Lambda::Function"}}},
        "Neither": {"Resources": {"Unknown": {"Type": "AWS::Absent::Thing"}}},
    }
    for name, template in apps.items():
        (tmp_path / f"{name}.template.json").write_text(json.dumps(template), "utf-8")
    judged = {name: CfnGuard().examine([Reference(name, tmp_path / f"{name}.template.json")], Tools()) for name in apps}
    told = {name: {(one.rule.upper(), one.subject) for one in verdict.findings} for name, verdict in judged.items()}
    assert ("S3_BUCKET_VERSIONING_ENABLED_CHECK", "Open") in told["Bucket"]
    assert told["Both"] > told["Bucket"]
    assert told["Neither"] == set()
    assert judged["Both"].checked > judged["Bucket"].checked > judged["Neither"].checked


def test_the_page_on_security_shows_all_explanations():
    spec = importlib.util.spec_from_file_location("findings", ROOT / "docs" / "scripts" / "findings.py")
    findings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(findings)
    page = findings.PAGE.read_text("utf-8")
    assert findings.written(page) == page, "run: python docs/scripts/findings.py"
    assert all(explanation.reason in page for explanation in read_explanations())


def test_every_reason_is_long_enough_for_cdk_nag_2_and_in_latin_1():
    assert EXPLANATIONS.read_text("utf-8").isascii()
    assert all(len(explanation.reason) >= 10 for explanation in read_explanations())


def test_cdk_nag_tells_our_bucket_from_an_open_one_that_fails(tmp_path):
    import aws_cdk as cdk
    from aws_cdk import aws_s3 as s3
    from verify.nag import third

    from cdk_inference import WorkBucket

    made = cdk.App(outdir=str(tmp_path))
    stack = cdk.Stack(made, "Stack")
    WorkBucket(stack, "Ours")
    s3.Bucket(stack, "Open")
    found = {(path.split("/")[1], acknowledged, rule) for rule, path, acknowledged, _ in third(made, tmp_path)}
    assert {acknowledged for subject, acknowledged, _ in found if subject == "Ours"} == {True}
    assert ("Open", False, "AwsSolutions-S1") in found
    assert ("Open", False, "NIST.800.53.R5-S3BucketSSLRequestsOnly") in found


def test_findings_are_acknowledged_for_cdk_nag_2_too(tmp_path):
    import aws_cdk as cdk
    from aws_cdk.assertions import Template

    from cdk_inference import WorkBucket

    stack = cdk.Stack(cdk.App(), "Stack")
    WorkBucket(stack, "Ours")
    (bucket,) = Template.from_stack(stack).find_resources("AWS::S3::Bucket").values()
    suppressed = bucket["Metadata"]["cdk_nag"]["rules_to_suppress"]
    assert "AwsSolutions-S1" in {rule["id"] for rule in suppressed}
    for rule in suppressed:  # what its second version insists on
        assert "[" not in rule["id"]
        assert len(rule["reason"]) >= 10


def test_tools_that_cannot_be_installed_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match=r"^node cannot be installed: .*npm"):
        Tools(tmp_path).package("jsonata")
    # A later call tries again, since nothing says that the folder is complete.
    with pytest.raises(UnavailableError):
        Tools(tmp_path).package("jsonata")
