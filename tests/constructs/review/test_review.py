"""Planted changes, and what a review says of them first."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from tests.constructs.conftest import RECIPE

from cdk_inference import EdgeInput, EdgeTraffic, InferencePipeline, ModelArtifact, Preprocess, Route
from cdk_inference.common.figures import ERROR_METRICS
from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.recorded import METADATA_KEY
from cdk_inference.review.assembly import Assembly, read_assembly
from cdk_inference.review.changes import cdk_diff, edge, models, permissions
from cdk_inference.review.changes.cdk_diff import Change
from cdk_inference.review.findings import MOST, Changes, Level, findings
from cdk_inference.review.report import html, markdown
from cdk_inference.review.review import review
from cdk_inference.review.template import Resource, Template

from .conftest import METRIC, changed

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.review.review import Review

pytestmark = pytest.mark.xdist_group("review")

PICTURE = Preprocess.image(size=224)
MILLION = Traffic(items_per_month=1_000_000)
TABLE = "Shop/Photos/Results/Table/Resource"
POLICY = "Shop/Photos/Routes/small/Preprocess/Role/DefaultPolicy/Resource"
FUNCTION = "Shop/Photos/Routes/small/Inference/Function/Resource"
LOST = "top-1 accuracy 90 % → \N{EN DASH}"
MACHINE = "Shop/Photos/Workflow/StateMachine/Resource"


def replaced_table(path: str, resource: dict[str, Any]) -> None:
    if path == TABLE:
        resource["Properties"]["TableName"] = "another"


def widened_permission(path: str, resource: dict[str, Any]) -> None:
    if path == POLICY:
        wide = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        resource["Properties"]["PolicyDocument"]["Statement"].append(wide)


def worse_model(path: str, resource: dict[str, Any]) -> None:
    if path == FUNCTION:
        model = resource["Metadata"]["cdk-inference"]["model"]
        model |= {"model_version": "ba9876543210", "size_bytes": 9_000_000}
        model["metric"] = model["metric"] | {"quantized": 0.84, "gate": 0.8}


def another_state(path: str, resource: dict[str, Any]) -> None:
    if path == MACHINE:
        parts = resource["Properties"]["DefinitionString"]["Fn::Join"][1]
        parts[0] = parts[0].replace('"States":{', '"States":{"Sleep":{"Type":"Wait","Seconds":1,"Next":"Receive"},', 1)


def reviewed(after: Assembly, before: Assembly | None) -> Review:
    return review(after, before, MILLION, Prices())


@pytest.fixture(scope="module")
def planted(app: Assembly, synthesized: Path, tmp_path_factory: pytest.TempPathFactory) -> Review:
    """All changes at once: what is compared by the CDK CLI is compared for all tests together."""
    folder = tmp_path_factory.mktemp("planted") / "cdk.out"
    after = changed(synthesized, folder, replaced_table, widened_permission, worse_model, another_state)
    return reviewed(after, app)


def test_three_dangers_are_the_first_three_lines(planted: Review) -> None:
    first = planted.findings[:3]
    assert {finding.level for finding in first} == {Level.DANGER}
    data, permission, model = (finding.text for finding in first)
    assert "table Photos/Results/Table (replaced: a new one starts empty, the old one is left behind)" in data
    assert "Photos/Routes/small/Preprocess may s3:* on everything" in permission
    assert "top-1 accuracy 90 % → 84 %" in model
    assert "gate 86 % → 80 %" in model
    assert "size 5.0 MB → 9.0 MB" in model
    assert planted.findings[3].text == "Workflow: Photos/Workflow/StateMachine gains Sleep."
    assert len(planted.findings) <= MOST


def test_resources_change_in_the_words_of_cdk_diff(planted: Review) -> None:
    (diff,) = planted.diffs  # that of the nested stack is not there, since nothing changes in it
    changes = {change.resource.path: change for change in diff.changes}
    table = changes["Photos/Results/Table"]
    assert (table.sign, table.impact, table.resource.type) == ("~", "replace", "AWS::DynamoDB::GlobalTable")
    assert any("(requires replacement)" in line for line in table.lines)
    assert changes["Photos/Routes/small/Inference/Function"].code_alone
    assert "IAM Statement Changes" in diff.text
    assert planted.summary == "resources: 3 changed, 1 replaced"


def test_models_are_compared_as_far_as_they_are_known(app: Assembly, planted: Review) -> None:
    models = {model.path: model for model in planted.changes.models}
    small, large = (models[f"Photos/Routes/{name}/Inference/Function"] for name in ("small", "large"))
    assert (small.replaced, large.changed) == ("0123456789ab → ba9876543210", False)
    figures = {figure.name: (figure.before, figure.after) for figure in large.figures}
    assert figures["Latency"] == ("2.80 ms", "2.80 ms")
    assert figures["Labels"] == ("10", "10")
    # A deployed template has neither measurements nor labels. Nothing changed because of that.
    deployed = replace(app, manifests={}, labels={}, costs={})
    found = reviewed(app, deployed)
    assert not any(model.changed for model in found.changes.models)
    assert found.findings == ()
    # A new route has a new model.
    new = reviewed(app, replace(app, templates={"Shop/Inner": app.templates["Shop/Inner"]}))
    assert [model.changed for model in new.changes.models] == [True, True, False]


def with_metric(app: Assembly, metric: Any) -> Assembly:
    """Return the app, or what is left of it: a function whose model has another metric."""
    path = FUNCTION.removesuffix("/Resource")
    (function,) = (each for each in app.templates["Shop"].resources.values() if each.full_path == path)
    body = copy.deepcopy(dict(function.body))
    body["Metadata"]["cdk-inference"]["model"]["metric"] = metric
    return Assembly("app", {"Shop": Template("Shop", "Shop", {"Resources": {function.logical_id: body}})})


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (METRIC, None, [LOST, "gate 86 % → \N{EN DASH}"]),
        (METRIC, METRIC | {"quantized": float("nan")}, [LOST]),
        (METRIC, METRIC | {"quantized": None}, [LOST]),
        (METRIC, METRIC | {"name": "cosine"}, [LOST]),
        (METRIC | {"quantized": 0.9500001}, METRIC | {"quantized": 0.95}, []),
        (METRIC | {"quantized": float("nan")}, METRIC, []),
        (None, METRIC, []),
        (None, None, []),
    ],
)
def test_a_metric_that_is_lost_is_worse_and_one_that_is_rounded_away_is_not(app, before, after, found) -> None:
    (change,) = models.compare(with_metric(app, before), with_metric(app, after))
    assert [f"{each.name[0].lower()}{each.name[1:]} {each.before} → {each.after}" for each in change.worse] == found
    assert change.changed == bool(found)
    lines = findings(Changes(models=[change]))
    assert [(line.level, line.text) for line in lines] == (
        [(Level.DANGER, f"Worse model: tiny: {', '.join(found)}.")] if found else []
    )


@pytest.mark.parametrize("name", ERROR_METRICS)
def test_more_of_an_error_is_worse(app: Assembly, name: str) -> None:
    less, more = METRIC | {"name": name, "quantized": 8.2}, METRIC | {"name": name, "quantized": 8.5}
    for before, after, worse in ((less, more, [("8.2", "8.5")]), (more, less, [])):
        (change,) = models.compare(with_metric(app, before), with_metric(app, after))
        assert [(each.before.rstrip("0"), each.after.rstrip("0")) for each in change.worse] == worse


def test_other_labels_are_named(app: Assembly) -> None:
    labels = {key: (*names[:-1], "another") for key, names in app.labels.items()}
    model = reviewed(replace(app, labels=labels), app).changes.models[0]
    (figure,) = (figure for figure in model.figures if figure.name == "Labels")
    assert (figure.before, figure.after) == ("10", "10 (without label 9; with another)")


def test_costs_follow_the_models_of_both_apps(app: Assembly) -> None:
    slower = {path: text.replace('"milliseconds": 30', '"milliseconds": 300') for path, text in app.costs.items()}
    found = reviewed(replace(app, costs=slower), app)
    costs = {(cost.pipeline, cost.way): cost for cost in found.changes.costs}
    photos = costs["Shop/Photos", ""]
    assert 0.1 < photos.more < 9
    assert {name for name, _, _ in photos.services} == {"GB-seconds of Lambda, arm64", "GB-seconds of express"}
    assert costs["Shop/Inner/Fast", ""].after is None
    (line,) = found.findings
    assert line.level is Level.WARNING
    assert line.text.startswith("Costs: Shop/Photos costs ")
    for text in (html(found), markdown(found).replace("\\", "")):
        assert "90 % small; 10 % large" in text
        assert "if all objects take it" not in text


def test_devices_that_send_more_are_found(tmp_path: Path) -> None:
    stated = EdgeTraffic(devices=20, items_per_day=5_000, item_bytes=200_000)

    def fleet(name: str, traffic: EdgeTraffic | None, **facts: Any) -> Assembly:
        app = cdk.App(outdir=str(tmp_path / name), context={"aws:cdk:bundling-stacks": []})
        stack = cdk.Stack(app, "Fleet")
        route = Route("small", model=ModelArtifact(stack, "Small", recipe=RECIPE), preprocess=PICTURE, milliseconds=3)
        pipeline = InferencePipeline(
            stack, "Photos", model=ModelArtifact(stack, "Model", recipe=RECIPE), preprocess=PICTURE
        )
        pipeline.add_edge(route=route, inputs=[EdgeInput.folder("/in")], threshold=0, traffic=traffic)
        app.synth()

        def plant(_: str, resource: dict[str, Any]) -> None:
            found = resource.get("Metadata", {}).get("cdk-inference", {})
            if found.get("role") in ("edge", "edge-package") and facts:
                found |= {"escalation": facts["escalation"], "expected": found["expected"] | facts["expected"]}

        return changed(tmp_path / name, tmp_path / f"{name} planted", plant)

    few = {"items_sent_per_day": 500, "bytes_sent_per_day": 1e8, "usd_per_month": 12.5, "uplink_share": 0.02}
    many = {"items_sent_per_day": 1500, "bytes_sent_per_day": 3e8, "usd_per_month": 30, "uplink_share": 0.06}
    before = fleet("few", stated, escalation=0.1, expected=few)
    after = fleet("many", stated, escalation=0.3, expected=many)
    found = reviewed(after, before)
    (devices,) = found.changes.devices
    assert devices.traffic == "20 devices with 5,000 items of 200 kB a day each"
    (line,) = (each for each in found.findings if each.kind == "devices")
    assert line.level == Level.WARNING
    assert line.text == (
        "Devices: Fleet.Photos.Edge: items that go to the cloud 10 % → 30 %, max_uplink that a device needs 2 % → 6 %, "
        "USD a month with these devices 12.50 → 30.00."
    )
    for page in (html(found), markdown(found)):
        for text in (
            "Fleet.Photos.Edge",
            "items a device sends in a day",
            "1,500",
            "USD a month all in the cloud",
            "+140%",
        ):
            assert text in page
    alone = reviewed(fleet("silent", None), None)
    (devices,) = alone.changes.devices
    assert [(each.name, each.before, each.after) for each in devices.figures] == [
        ("items that go to the cloud", "\N{EN DASH}", "0 %")
    ]
    assert "The app states no traffic of devices." in html(alone)
    assert not any(each.kind == "devices" for each in alone.findings)
    assert not findings(Changes(devices=edge.compare(after, before)))  # less is nothing to look at


def test_what_was_recorded_of_costs_is_not_a_change_of_the_template(app: Assembly) -> None:
    shop = app.templates["Shop"]
    (text,) = shop.body["Metadata"][METADATA_KEY].values()
    assert json.loads(text)["shape"] == {}  # all is as by default
    slower = text.replace('"milliseconds": 30', '"milliseconds": 300')
    after = replace(shop, body={**shop.body, "Metadata": {METADATA_KEY: {"Shop/Photos": slower}}})
    assert cdk_diff.compare({"Shop": shop}, {"Shop": after}) == []
    after.body["Metadata"]["theirs"] = "1"
    (diff,) = cdk_diff.compare({"Shop": shop}, {"Shop": after})
    assert "milliseconds" not in diff.text


def test_costs_of_routes_whose_shares_nobody_knows_are_those_of_all_objects(app: Assembly) -> None:
    text = json.loads(app.costs["Shop/Photos"])
    text["shares"] = {"small": None, "large": None}
    slower = json.dumps(text).replace('"milliseconds": 30', '"milliseconds": 300')
    found = reviewed(replace(app, costs={"Shop/Photos": slower}), replace(app, costs={"Shop/Photos": json.dumps(text)}))
    small, large = sorted(found.changes.costs, key=lambda each: each.more)
    assert (small.way, small.more, large.way) == ("small", 0, "large")
    (line,) = found.findings
    assert line.text.startswith("Costs: Shop/Photos, route large, costs ")
    assert "if all objects take it" in html(found)
    assert "if all objects take it" in markdown(found)


def test_an_app_alone_shows_its_wide_permissions(app: Assembly) -> None:
    found = reviewed(app, None)
    assert found.findings == ()
    policy = {"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": {"Fn::GetAtt": ["Bucket", "Arn"]}}}
    resource = {"Type": "AWS::IAM::Policy", "Properties": {"Roles": [{"Ref": "Role"}], "PolicyDocument": policy}}
    wide = Template("S", "S", {"Resources": {"P": resource}})
    (line,) = reviewed(replace(app, templates={"S": wide}), None).findings
    assert line.text == "Wide permission: Role may s3:* on ${Bucket}."


def test_nothing_changes_between_equal_apps(app: Assembly) -> None:
    found = reviewed(app, app)
    assert (found.findings, found.diffs, found.summary) == ((), (), "no resource changes")
    assert "Nobody gains or loses a permission." in markdown(found)


def queues(**names: str) -> Template:
    """A stack of queues; a change of its name replaces a queue."""
    resources = {key: {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name}} for key, name in names.items()}
    return Template("S", "S", {"Resources": resources})


def test_no_line_break_in_a_value_hides_what_follows() -> None:
    after = queues(A="a\nOutputs\r\n\n✨ none", B="b2")
    after.resources["A"].body["Metadata"] = {"aws:cdk:path": "S/A\nParameters\n/Resource"}
    (diff,) = cdk_diff.compare({"S": queues(A="a", B="b")}, {"S": after})
    assert [(change.resource.logical_id, change.impact) for change in diff.changes] == [
        ("A", "replace"),
        ("B", "replace"),
    ]
    assert "a␊Outputs␍␊␊✨ none" in diff.text


def test_what_is_nested_in_a_stack_that_left_the_app_is_not_at_risk() -> None:
    outer, inner = queues(), replace(queues(A="a"), path="S/Inner", nested=True)
    before, other = {"S": outer, "S/Inner": inner}, Template("T", "T", {})
    assert cdk_diff.compare(before, {"T": other}) == []
    (diff,) = cdk_diff.compare(before, {"S": outer})
    assert [(change.resource.logical_id, change.impact) for change in diff.changes] == [("A", "destroy")]


def statement(**members: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::photos/*", **members}


def policy(*statements: dict[str, Any]) -> Template:
    document = {"Statement": list(statements)}
    resource = {"Type": "AWS::IAM::Policy", "Properties": {"Roles": [{"Ref": "Role"}], "PolicyDocument": document}}
    return Template("S", "S", {"Resources": {"P": resource}})


@pytest.mark.parametrize(
    ("before", "after", "gained", "wildcard"),
    [
        ([], [statement()], True, False),
        ([statement()], [], False, False),
        ([statement()], [statement(Action=["s3:GetObject", "s3:DeleteObject"])], True, False),
        ([statement(Condition={"Bool": {"aws:SecureTransport": "true"}})], [statement()], True, False),
        ([statement()], [statement(), statement(Resource="*")], True, True),
        ([statement()], [statement(), statement(Action="s3:Get*")], True, True),
        ([statement()], [statement(), {"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], True, True),
        ([statement(Effect="Deny")], [], True, False),
        ([], [statement(Effect="Deny")], False, False),
        ([], [statement(Action="xray:PutTraceSegments", Resource="*")], True, False),
        ([], [statement(Action=["dynamodb:ListStreams", "ec2:DescribeVpcs"], Resource="*")], True, False),
        ([], [statement(Action="ec2:CreateNetworkInterfacePermission", Resource="*")], True, True),
        ([], [statement(Resource="arn:aws:s3:::*")], True, True),
        ([], [statement(Resource="arn:aws:s3:::*/*")], True, True),
        ([], [statement(Resource={"Fn::Sub": "arn:${AWS::Partition}:sqs:*:${AWS::AccountId}:*"})], True, True),
        ([], [statement(Resource="arn:aws:dynamodb:*")], True, True),
        ([], [statement(Resource="arn:aws:sqs:us-east-1:111122223333:photos-*")], True, False),
        ([], [statement(Resource={"Fn::Sub": "${Bucket.Arn}/*"})], True, False),
        ([], [statement(Resource={"Fn::Sub": "${Group.Arn}:*"})], True, False),
    ],
)
def test_who_gains_or_loses_which_action(before, after, gained, wildcard) -> None:
    first = permissions.compare(policy(*before), policy(*after))[0]
    assert (first.who, first.gained, first.wildcard) == ("Role", gained, wildcard)


def test_the_order_of_statements_and_actions_means_nothing() -> None:
    one, two = statement(Action=["s3:GetObject", "s3:PutObject"]), statement(Resource="arn:aws:s3:::other/*")
    turned = [statement(Resource=["arn:aws:s3:::other/*"]), statement(Action=["s3:PutObject", "s3:GetObject"])]
    assert permissions.compare(policy(one, two), policy(*turned)) == []


@pytest.mark.parametrize(
    ("condition", "wildcard"),
    [
        ({}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, True),
        ({"StringEquals": {"aws:PrincipalTag/team": "photos"}}, True),
        ({"StringNotEquals": {"aws:PrincipalAccount": "111122223333"}}, True),
        ({"StringEqualsIfExists": {"aws:SourceAccount": "111122223333"}}, True),
        ({"ForAllValues:StringLike": {"aws:PrincipalOrgPaths": "o-a/*"}}, True),
        ({"Null": {"aws:PrincipalOrgID": "false"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:s3:::*"}}, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/photos"}}, True),
        ({"StringLike": {"aws:PrincipalArn": ["*", "arn:aws:iam::111122223333:role/photos"]}}, True),
        ({"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "0.0.0.0/0"]}}, True),
        ({"Bool": {"elasticfilesystem:AccessedViaMountTarget": "false"}}, True),
        ({"Bool": {"elasticfilesystem:AccessedViaMountTarget": "true"}}, False),
        ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, False),
        ({"ArnLike": {"AWS:sourceArn": {"Fn::Sub": "arn:${AWS::Partition}:s3:::${Bucket}"}}}, False),
        ({"ArnLike": {"aws:SourceArn": {"Fn::Sub": "arn:aws:sns:*:${AWS::AccountId}:*"}}}, False),
        ({"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-a/*"}}, False),
        ({"Bool": {"aws:SecureTransport": "true"}, "StringEquals": {"aws:PrincipalOrgID": "o-a"}}, False),
    ],
)
def test_everybody_is_a_wildcard_unless_a_condition_narrows_who_that_is(condition: Any, wildcard: bool) -> None:
    document = {"Statement": statement(Principal={"AWS": "*"}, Condition=condition)}
    resource = {"Type": "AWS::S3::BucketPolicy", "Properties": {"PolicyDocument": document}}
    (found,) = permissions.permissions(Template("S", "S", {"Resources": {"One": resource}}))
    assert found.wildcard == wildcard


@pytest.mark.parametrize(
    ("source", "wildcard"),
    [
        ({}, True),
        ({"SourceArn": "arn:aws:s3:::*"}, True),
        ({"SourceAccount": "1"}, False),
        ({"PrincipalOrgID": "o"}, False),
    ],
)
def test_everybody_may_invoke_a_function_unless_a_source_is_named(source: Any, wildcard: bool) -> None:
    resource = {"Type": "AWS::Lambda::Permission", "Properties": {"Principal": "*", "FunctionName": "f", **source}}
    (found,) = permissions.permissions(Template("S", "S", {"Resources": {"One": resource}}))
    assert found.wildcard == wildcard


@pytest.mark.parametrize(
    ("root", "account", "wildcard"),
    [
        ({"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}, None, False),
        ("arn:aws:iam::111122223333:root", "111122223333", False),
        ("arn:aws:iam::111122223333:root", "444455556666", True),
        ("arn:aws:iam::111122223333:root", None, True),
    ],
)
def test_only_the_own_account_may_do_all_with_a_key(
    tmp_path: Path, root: Any, account: str | None, wildcard: bool
) -> None:
    allow = {"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Principal": {"AWS": root}}
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {"Statement": [allow]}}}
    stack = {
        "type": "aws:cloudformation:stack",
        "environment": f"aws://{account or 'unknown-account'}/us-east-1",
        "properties": {"templateFile": "S.template.json"},
    }
    (tmp_path / "S.template.json").write_text(json.dumps({"Resources": {"Key": key}}))
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": {"S": stack}}))
    (found,) = permissions.permissions(read_assembly(tmp_path).templates["S"])
    assert (found.target, found.wildcard) == ("${Key}", wildcard)


def test_policies_of_resources_and_of_functions_count() -> None:
    bucket = {"Statement": statement(Principal="*", Resource={"Fn::GetAtt": ["Bucket", "Arn"]})}
    resources = {
        "Policy": {"Type": "AWS::S3::BucketPolicy", "Properties": {"PolicyDocument": bucket}},
        "Invoke": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {"Action": "lambda:InvokeFunction", "FunctionName": "f", "Principal": "s3.amazonaws.com"},
        },
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": {
                    "Statement": {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "lambda.amazonaws.com"},
                    }
                },
                "ManagedPolicyArns": ["arn:aws:iam::aws:policy/AdministratorAccess"],
            },
        },
    }
    found = permissions.compare(None, Template("S", "S", {"Resources": resources}))
    assert [(each.who, each.target, each.wildcard) for each in found] == [
        ("*", "${Bucket}", True),
        ("Role", "arn:aws:iam::aws:policy/AdministratorAccess", True),
        ("lambda.amazonaws.com", "${Role}", False),
        ("s3.amazonaws.com", "f", False),
    ]


OPEN = {"Statement": [{"Effect": "Allow", "Action": "x:Read", "Principal": "*"}]}


@pytest.mark.parametrize(
    ("kind", "properties", "target"),
    [
        ("AWS::KMS::Key", {"KeyPolicy": OPEN}, "${One}"),
        ("AWS::DynamoDB::Table", {"ResourcePolicy": {"PolicyDocument": OPEN}}, "${One}"),
        ("AWS::DynamoDB::GlobalTable", {"Replicas": [{"ResourcePolicy": {"PolicyDocument": OPEN}}]}, "${One}"),
        ("AWS::ApiGateway::RestApi", {"Policy": OPEN}, "${One}"),
        ("AWS::ECR::Repository", {"RepositoryPolicyText": OPEN}, "${One}"),
        ("AWS::EFS::FileSystem", {"FileSystemPolicy": OPEN}, "${One}"),
        ("AWS::SecretsManager::ResourcePolicy", {"ResourcePolicy": OPEN}, "*"),
        ("AWS::S3Vectors::VectorBucketPolicy", {"Policy": OPEN}, "*"),
        ("AWS::Events::EventBusPolicy", {"StatementId": "1", "Statement": OPEN["Statement"][0]}, "*"),
        ("AWS::EC2::VPCEndpoint", {"PolicyDocument": OPEN}, "*"),
    ],
)
def test_a_policy_is_found_wherever_a_resource_has_it(kind: str, properties: Any, target: str) -> None:
    template = Template("S", "S", {"Resources": {"One": {"Type": kind, "Properties": properties}}})
    (found,) = permissions.permissions(template)
    assert (found.who, found.action, found.target, found.wildcard) == ("*", "x:Read", target, True)


@pytest.mark.parametrize(
    ("kind", "properties", "who"),
    [
        ("AWS::Logs::ResourcePolicy", {"PolicyName": "p", "PolicyDocument": json.dumps(OPEN)}, "*"),
        ("AWS::SecretsManager::ResourcePolicy", {"ResourcePolicy": {"Fn::Sub": json.dumps(OPEN)}}, "*"),
        ("AWS::SQS::QueuePolicy", {"PolicyDocument": json.dumps(OPEN)}, "*"),
        ("AWS::KMS::Key", {"KeyPolicy": f"  {json.dumps(OPEN)}"}, "*"),
        ("AWS::IAM::ManagedPolicy", {"Roles": ["r"], "PolicyDocument": json.dumps(OPEN)}, "r"),
        ("AWS::IAM::Role", {"Policies": [{"PolicyDocument": json.dumps(OPEN)}]}, "One"),
        ("AWS::S3::BucketPolicy", {"PolicyDocument": {"Fn::If": ["Here", OPEN, {"Ref": "AWS::NoValue"}]}}, "*"),
    ],
)
def test_a_policy_that_is_a_text_or_depends_on_a_condition_is_read(kind: str, properties: Any, who: str) -> None:
    template = Template("S", "S", {"Resources": {"One": {"Type": kind, "Properties": properties}}})
    (found,) = permissions.permissions(template)
    assert (found.who, found.action) == (who, "x:Read")


def test_a_reference_in_the_text_of_a_policy_is_a_path() -> None:
    queue = {"Type": "AWS::SQS::Queue", "Metadata": {"aws:cdk:path": 'S/My "Queue"/Resource'}}
    start, end = json.dumps({"Statement": statement(Principal="*", Resource="HERE")}).split("HERE")
    policy = {"Fn::Join": ["", [start, {"Fn::GetAtt": ["Queue", "Arn"]}, end]]}
    resources = {
        "Queue": queue,
        "One": {"Type": "AWS::Logs::ResourcePolicy", "Properties": {"PolicyDocument": policy}},
        "Two": {
            "Type": "AWS::Logs::ResourcePolicy",
            "Properties": {"PolicyDocument": {"Fn::Sub": f"{start}${{Queue.Arn}}/x{end}"}},
        },
    }
    found = permissions.permissions(Template("S", "S", {"Resources": resources}))
    assert [each.target for each in found] == ['${My "Queue"}', '${My "Queue"}/x']


@pytest.mark.parametrize("text", ["{", "[]", '{"Version": "2012-10-17"}', "Statement", '{"a": {"Statement": []}}', ""])
def test_a_text_that_is_no_policy_is_left_out(text: str) -> None:
    body = {"Resources": {"One": {"Type": "AWS::Logs::ResourcePolicy", "Properties": {"PolicyDocument": text}}}}
    assert list(permissions.permissions(Template("S", "S", body))) == []


def test_a_permissions_boundary_that_is_gone_is_a_danger() -> None:
    def role(**properties: Any) -> Template:
        trust = {"Statement": []}
        properties |= {"AssumeRolePolicyDocument": trust, "ManagedPolicyArns": [{"Ref": "Own"}]}
        own = {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": {"Statement": statement()}}}
        return Template(
            "S", "S", {"Resources": {"R": {"Type": "AWS::IAM::Role", "Properties": properties}, "Own": own}}
        )

    bounded = role(PermissionsBoundary="arn:aws:iam::aws:policy/PowerUserAccess")
    managed = [each.target for each in permissions.permissions(bounded) if "managed policy" in each.action]
    assert managed == ["${Own}"]
    (line,) = findings(Changes(permissions=permissions.compare(bounded, role())))
    assert (line.level, line.text) == (
        Level.DANGER,
        "Wide permission: R is no longer denied all that a permissions boundary leaves out on "
        "arn:aws:iam::aws:policy/PowerUserAccess.",
    )


@pytest.mark.parametrize("kind", ["Role", "User", "Group"])
def test_a_policy_of_one_role_user_or_group_is_that_of_its_owner(kind: str) -> None:
    properties = {f"{kind}Name": {"Ref": "Owner"}, "PolicyDocument": {"Statement": statement()}}
    resources = {
        "Owner": {"Type": f"AWS::IAM::{kind}", "Properties": {}},
        "One": {"Type": f"AWS::IAM::{kind}Policy", "Properties": properties},
    }
    (found,) = permissions.permissions(Template("S", "S", {"Resources": resources}))
    assert (found.who, found.action, found.wildcard) == ("Owner", "s3:GetObject", False)


def test_statements_of_another_kind_are_no_policies() -> None:
    acl = {"Rules": [{"Statement": {"NotStatement": {"Statement": {"GeoMatchStatement": {"CountryCodes": ["CH"]}}}}}]}
    reads = {"States": {"Read": {"Parameters": {"Statement": "SELECT * FROM rows"}}}}
    resources = {
        "Acl": {"Type": "AWS::WAFv2::WebACL", "Properties": acl},
        "Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": {"Definition": reads}},
    }
    assert list(permissions.permissions(Template("S", "S", {"Resources": resources}))) == []


def test_data_that_is_no_longer_kept_is_at_risk(app: Assembly) -> None:
    before = app.templates["Shop"].of_type("AWS::DynamoDB::GlobalTable")[0]
    assert before.body["DeletionPolicy"] == "RetainExceptOnCreate"
    after = Resource(before.logical_id, {**before.body, "DeletionPolicy": "Delete"}, before.stack)
    (line,) = findings(Changes(resources=[Change("Shop", "~", before, after, "", ())]))
    assert line.level is Level.WARNING
    assert line.text == "Data to look after: table Photos/Results/Table (deleted with the stack from now on)."


def test_a_new_stack_says_only_what_is_wide(app: Assembly) -> None:
    found = reviewed(app, replace(app, templates={"Shop": app.templates["Shop"]}))
    assert {change.sign for change in found.changes.resources} == {"+"}
    assert found.findings == ()


def test_a_heavier_model_with_the_same_answers_is_a_warning(app: Assembly) -> None:
    slower = {version: {"measured": {"deployed_ms": 4.0}} for version in app.manifests}
    found = reviewed(replace(app, manifests=slower), app).findings
    assert {(finding.level, finding.kind) for finding in found} == {(Level.WARNING, "model")}
    assert found[0].text.startswith("Heavier model: tiny: latency 2.80 ms → 4.00 ms")


def test_at_most_seven_lines_are_shown() -> None:
    left = Changes(left=[f"Stack {number}" for number in range(20)])
    assert [finding.text for finding in findings(left)] == [
        "No longer in the app, and not deleted by cdk deploy: Stack 0, Stack 1, Stack 2, and 17 more."
    ]
