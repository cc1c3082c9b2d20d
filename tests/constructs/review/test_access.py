"""The verdicts of the policy simulator: each edge allowed as it is named, its neighbours denied, and what changes."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.review.access.verdicts import Access, Verdict
from cdk_inference.review.changes import access
from cdk_inference.review.findings import Changes, Level, findings
from cdk_inference.review.report import html, markdown
from cdk_inference.review.review import review
from cdk_inference.review.template import Template

from .conftest import changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cdk_inference.review.assembly import Assembly

pytestmark = pytest.mark.xdist_group("review")

POSTPROCESS = "Shop/Photos/Routes/small/Postprocess/Role/DefaultPolicy/Resource"
Statements = list[dict[str, Any]]


def policies(body: dict[str, Any]) -> Iterator[tuple[str, Statements]]:
    """Yield the statements of each policy, to be changed."""
    for name, resource in body["Resources"].items():
        properties = resource.get("Properties", {})
        for place in ("PolicyDocument", "KeyPolicy", "AssumeRolePolicyDocument"):
            if isinstance(properties.get(place), dict):
                yield f"{name} {place}", properties[place]["Statement"]


def mutants(template: Template, change: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[dict[str, Any], Template]]:
    """Yield each statement of a template that can be changed, and the template with that change."""
    for name, statements in policies(template.body):
        for number, statement in enumerate(statements):
            body = copy.deepcopy(template.body)
            others = dict(policies(body))[name]
            others[number] = change(others[number])
            if others[number] is not None:
                others[:] = [each for each in others if each]
                yield statement, replace(template, body=body)


def changes(before: Template, after: Template) -> tuple[access.AccessChange, ...]:
    return access.compare({"S": before}, {"S": after}).changes


def test_each_call_between_the_parts_of_a_pipeline_is_allowed(app: Assembly) -> None:
    asked = access.compare({}, app.templates)
    assert asked.edges == asked.allowed > 100
    assert (asked.unknown, asked.changes) == (0, ())
    edges = {(edge.who, edge.action, edge.resource) for edge in Access(app.templates["Shop"]).edges}
    postprocess, machine = "Photos/Routes/small/Postprocess", "Photos/Workflow"
    assert edges >= {
        ("Photos/Trigger/ObjectCreated", "sqs:SendMessage", "${Photos/Trigger/Queue}"),
        ("Photos/Trigger/ObjectCreated", "kms:GenerateDataKey", "${Photos/Key}"),
        ("Photos/Trigger/Pipe", "sqs:ReceiveMessage", "${Photos/Trigger/Queue}"),
        ("Photos/Trigger/Pipe", "states:StartSyncExecution", "${Photos/Workflow/StateMachine}"),
        (machine, "lambda:InvokeFunction", "${Photos/Routes/small/Inference/Alias}"),
        (machine, "sqs:SendMessage", "${Photos/Trigger/DeadLetterQueue}"),
        ("Photos/Routes/small/Preprocess", "s3:GetObject", "${Photos/Trigger/Inbox}/*"),
        (postprocess, "dynamodb:PutItem", "${Photos/Results/Table}"),
        (postprocess, "kms:Encrypt", "${Photos/Key}"),
        (postprocess, "sts:AssumeRole", "${Photos/Routes/small/Postprocess/Role}"),
    }


def test_each_permission_of_a_role_that_is_removed_cuts_something_off(app: Assembly) -> None:
    shop = app.templates["Shop"]
    missed = []
    for statement, mutant in mutants(shop, lambda _: {}):
        found = changes(shop, mutant)
        assert all(each.lost for each in found)
        if not found:
            missed.append(statement)
    # The other statements repeat a grant, forbid insecure calls, or are for a service that works in between.
    assert {each["Effect"] for each in missed if "kms" not in json.dumps(each["Action"])} == {"Deny"}
    lost = changes(
        shop, next(mutant for each, mutant in mutants(shop, lambda _: {}) if each["Action"] == "sqs:SendMessage")
    )
    assert [(each.needed, each.before) for each in lost] == [(True, True)]


def test_each_permission_that_is_widened_reaches_a_neighbour(app: Assembly) -> None:
    shop = app.templates["Shop"]

    def widen(statement: dict[str, Any]) -> dict[str, Any] | None:
        # The policy of a resource is about that resource, whatever it names.
        named = "Principal" not in statement and statement["Resource"] != "*"
        return {**statement, "Resource": "*"} if named else None

    found = [changes(shop, mutant) for _, mutant in mutants(shop, widen)]
    assert len(found) > 20
    assert all(each and all(one.beyond and not one.lost for one in each) for each in found)


def test_each_trust_without_its_condition_lets_another_source_in(app: Assembly) -> None:
    shop = app.templates["Shop"]

    def loosen(statement: dict[str, Any]) -> dict[str, Any] | None:
        service = statement["Effect"] == "Allow" and "aws:SourceAccount" in json.dumps(statement.get("Condition"))
        return {key: value for key, value in statement.items() if key != "Condition"} if service else None

    found = [changes(shop, mutant) for _, mutant in mutants(shop, loosen)]
    assert len(found) == 3  # the key, and the roles of the pipe and of the state machine
    assert all(any("another aws:Source" in one.beyond[0] for one in each) for each in found)


def lost_permission(path: str, resource: dict[str, Any]) -> None:
    if path == POSTPROCESS:
        statements = resource["Properties"]["PolicyDocument"]["Statement"]
        statements[:] = [each for each in statements if each["Action"] != "dynamodb:PutItem"]


def test_a_permission_that_the_app_needs_and_loses_is_the_first_line(
    app: Assembly, synthesized: Path, tmp_path: Path
) -> None:
    after = changed(synthesized, tmp_path / "cdk.out", lost_permission)
    found = review(after, app, Traffic(items_per_month=1), Prices())
    (line,) = found.findings
    assert (line.level, line.kind) == (Level.DANGER, "permissions")
    assert line.text == (
        "Cut off: Photos/Routes/small/Postprocess may no longer dynamodb:PutItem on ${Photos/Results/Table}."
    )
    for text in (html(found), markdown(found)):
        assert "no longer allowed" in text


def stack(*statements: dict[str, Any], role: dict[str, Any] | None = None, **resources: Any) -> Template:
    """A function that writes to a bucket, and whatever else a test has."""
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    parts: dict[str, Any] = {
        "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {}},
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": {"Statement": [trust]},
                "Policies": [{"PolicyName": "p", "PolicyDocument": {"Statement": list(statements)}}],
                **(role or {}),
            },
        },
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                "Environment": {"Variables": {"BUCKET": {"Ref": "Bucket"}}},
            },
        },
    }
    return Template("S", "S", {"Resources": parts | resources})


def write(place: str = "/out/*", **more: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": "s3:PutObject",
        "Resource": {"Fn::Sub": f"${{Bucket.Arn}}{place}"},
        **more,
    }


def verdict(template: Template) -> Verdict | None:
    """Return the verdict on what the function writes."""
    asked = Access(template)
    (edge,) = (each for each in asked.edges if each.resource == "${Bucket}/out/*")
    return asked.verdict(edge)


FORBIDDEN = {
    "Type": "AWS::S3::BucketPolicy",
    "Properties": {
        "Bucket": {"Ref": "Bucket"},
        "PolicyDocument": {
            "Statement": {"Effect": "Deny", "Action": "s3:Put*", "Resource": "*", "Principal": "*"},
        },
    },
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (stack(write()), Verdict(True)),
        (stack(write(), write("/*")), Verdict(True, ("another folder",))),
        (stack(write(), write(Resource="*")), Verdict(True, ("a neighbour of it", "another folder"))),
        (stack(write(), Forbidden=FORBIDDEN), Verdict(False)),
        (stack(write(), write(Effect="Deny")), Verdict(False)),
        (stack(write(), role={"ManagedPolicyArns": ["arn:aws:iam::aws:policy/AmazonS3FullAccess"]}), Verdict(True)),
        (stack(write(), role={"PermissionsBoundary": "arn:aws:iam::aws:policy/ReadOnlyAccess"}), Verdict(None)),
        (stack(write(Condition={"StringEquals": {"aws:PrincipalTag/a": "${aws:PrincipalTag/b}"}})), Verdict(None)),
    ],
    ids=[
        "named",
        "folder",
        "wildcard",
        "denied by the bucket",
        "denied by the role",
        "managed",
        "unknown boundary",
        "variable",
    ],
)
def test_verdicts(template: Template, expected: Verdict) -> None:
    assert verdict(template) == expected


def test_what_a_managed_policy_allows_is_known_if_the_template_has_it() -> None:
    aws = stack(role={"ManagedPolicyArns": ["arn:aws:iam::aws:policy/AmazonS3FullAccess"]})
    assert changes(stack(write()), aws) == ()  # the call may be allowed as before
    document = json.dumps({"Statement": write(Resource="arn:aws:s3:::bucket/out/*")})
    own = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": document}}
    given = stack(role={"ManagedPolicyArns": [{"Ref": "Own"}]}, Own=own)
    assert changes(stack(write()), given) == ()
    assert verdict(given) == Verdict(True)


@pytest.mark.parametrize(
    "resource", ["arn", "arn:aws", "arn:aws:s3*", "arn:aws:s3:*", {"Fn::Sub": "arn:${AWS::Partition}"}]
)
def test_a_pattern_that_ends_amid_an_arn_does_not_end_the_review(resource: object) -> None:
    short = stack(write(Resource=resource))
    assert changes(short, short) == ()
    assert changes(stack(write()), short)


def test_a_part_that_is_gone_lost_nothing() -> None:
    after = stack()
    del after.body["Resources"]["Bucket"]
    assert changes(stack(write()), after) == ()
    assert len(changes(stack(write()), stack())) == 1


def test_a_permission_that_nothing_needs_is_a_warning() -> None:
    other = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::elsewhere/a/*"}
    (line,) = findings(Changes(access=changes(stack(other), stack())))
    assert (line.level, line.text) == (
        Level.WARNING,
        "Lost permission: Function may no longer s3:GetObject on arn:aws:s3:::elsewhere/a/*.",
    )
    named = stack(other)
    named.body["Resources"]["Function"]["Properties"]["Environment"]["Variables"]["BUCKET"] = "elsewhere"
    less = copy.deepcopy(named.body)
    less["Resources"]["Role"]["Properties"]["Policies"] = []
    (line,) = findings(Changes(access=changes(named, replace(named, body=less))))
    assert line.level is Level.DANGER


def test_a_call_under_another_prefix_is_a_warning_and_one_of_another_object_says_nothing() -> None:
    (found,) = changes(stack(write()), stack(write("/new/*")))
    assert (found.target, found.lost, found.needed) == ("${Bucket}/out/*", True, False)
    (line,) = findings(Changes(access=[found]))
    assert line.level is Level.WARNING
    # A model in a bucket has another key whenever it changes.
    assert changes(stack(write("/one.onnx")), stack(write("/other.onnx"))) == ()
    one, other = (
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::assets/{name}.onnx"}
        for name in ("one", "other")
    )
    assert changes(stack(one), stack(other)) == ()
    assert len(changes(stack(one), stack())) == 1


def test_a_permission_that_stays_does_not_hide_one_that_is_cut_off() -> None:
    kept = write("/tensors/*")
    for cut_off in ("/config.json", "/masks/*"):
        (found,) = changes(stack(write(cut_off), kept), stack(kept))
        assert (found.target, found.lost, found.needed) == (f"${{Bucket}}{cut_off}", True, True)
    # Another object took the place of one of the two at most, whether it was within reach before or not.
    for before, after in (("/one.onnx", "/other.onnx"), ("/new/*", "/new/other.onnx")):
        found = changes(stack(write("/config.json"), write(before)), stack(write(after)))
        assert {each.target for each in found} == {"${Bucket}/config.json", f"${{Bucket}}{before}"}
    # The same object with another condition has not moved.
    bound = write("/config.json", Condition={"StringEquals": {"s3:x-amz-acl": "private"}})
    (found,) = changes(stack(write("/config.json")), stack(bound))
    assert (found.lost, found.needed) == (True, True)


def test_the_indexes_of_a_table_do_not_stand_for_the_table() -> None:
    table = {"Type": "AWS::DynamoDB::Table", "Properties": {}}

    def put(*places: str) -> Template:
        named = [{"Fn::Sub": f"${{Table.Arn}}{place}"} for place in places]
        made = stack({"Effect": "Allow", "Action": "dynamodb:PutItem", "Resource": named}, Table=table)
        made.body["Resources"]["Function"]["Properties"]["Environment"]["Variables"]["TABLE"] = {"Ref": "Table"}
        return made

    for before in (("", "/index/*"), ("",)):
        lost = [each for each in changes(put(*before), put("/index/*")) if each.lost]
        assert [(each.target, each.needed) for each in lost] == [("${Table}", True)]


def test_a_wider_call_is_one_line_with_the_other_wide_permissions() -> None:
    found = changes(stack(write()), stack(write("/*")))
    assert [(each.actions, each.target, each.beyond) for each in found] == [
        (("s3:PutObject",), "${Bucket}/out/*", ("another folder",))
    ]
    (line,) = findings(Changes(access=found))
    assert (line.level, line.text) == (
        Level.DANGER,
        "Wide permission: Function may s3:PutObject beyond ${Bucket}/out/*: another folder.",
    )


def test_without_the_simulator_a_review_says_so(app: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ministack" else found(name))
    alone = review(app, None, Traffic(items_per_month=1), Prices())
    assert alone.asked is None
    for text in (html(alone), markdown(alone)):
        assert "No call was simulated" in text
        assert "cdk-inference[local,review]" in text.replace("\\", "")
