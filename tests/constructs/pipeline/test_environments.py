"""Every partition, script and length: what synthesizes must be accepted where it is deployed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Annotations, Match, Template
from constructs import Construct
from tests.constructs.conftest import RECIPE, resources

from cdk_inference import (
    Execution,
    Inference,
    InferencePipeline,
    LambdaGpu,
    ModelArtifact,
    Preprocess,
    PropError,
    ResultsTable,
    Route,
    Routing,
    S3Trigger,
    SageMakerAsync,
    WorkBucket,
)
from cdk_inference.common.props.descriptions import described
from cdk_inference.model import Float16

ACCOUNT = "111111111111"
REGIONS = {
    "us-east-1": "amazonaws.com",
    "cn-north-1": "amazonaws.com.cn",
    "us-gov-west-1": "amazonaws.com",
    "us-iso-east-1": "c2s.ic.gov",
    "us-isob-east-1": "sc2s.sgov.gov",
    "us-isof-south-1": "csp.hci.ic.gov",
    "eu-isoe-west-1": "cloud.adc-e.uk",
}
# A service principal is the same in all partitions unless it names a Region.
UNIVERSAL = re.compile(r"(delivery\.logs|[a-z-]+)\.amazonaws\.com")


def app():
    zones = {
        f"availability-zones:account={ACCOUNT}:region={region}": [f"{region}a", f"{region}b"] for region in REGIONS
    }
    return cdk.App(context={"aws:cdk:bundling-stacks": [], **zones})


def add_pipelines(scope, id, *, region=None, inner="Photos", **props):
    """Add a stack with what reference pipelines are made of: functions, both GPUs, a cascade, a fused function."""
    env = cdk.Environment(account=ACCOUNT, region=region) if region else None
    stack = cdk.Stack(scope, id, env=env, **props)

    def route(name, inference=None, precision=None):
        model = ModelArtifact(stack, f"Model{name}", recipe=replace(RECIPE, name=name), precision=precision)
        return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=inference or Inference.cpu())

    small = route("small")
    on_lambda = route("large", Inference.gpu(backend=LambdaGpu(regions=[region] if region else ())), Float16())
    on_sagemaker = route("other", Inference.gpu(backend=SageMakerAsync()), Float16())
    cascade = Routing.cascade(first=small, then=on_lambda, threshold=0.5)
    InferencePipeline(stack, inner, routing=Routing.by_tag("class", {"other": on_sagemaker}, otherwise=cascade))
    InferencePipeline(stack, f"{inner}2", model=small.model, preprocess=small.preprocess, execution=Execution.fused())
    return stack


def strings(value):
    """Yield every text in a template, keys included."""
    if isinstance(value, dict):
        yield from value
        value = value.values()
    if isinstance(value, str):
        yield value
    elif not isinstance(value, (bool, int, float, type(None))):
        for inner in value:
            yield from strings(inner)


@pytest.fixture(scope="module")
def by_region(made_once):
    """The templates of all Regions, and of a stack that can be deployed into any."""

    def make(folder):
        made = app()
        stacks = {region: add_pipelines(made, f"In-{region}", region=region) for region in (*REGIONS, None)}
        for region, stack in stacks.items():
            (folder / f"{region}.json").write_text(json.dumps(Template.from_stack(stack).to_json()))

    folder = made_once("by region", make)
    return {region: json.loads((folder / f"{region}.json").read_text()) for region in (*REGIONS, None)}


@pytest.mark.parametrize("region", [*REGIONS, None])
def test_no_partition_is_written_into_a_template(by_region, region):
    suffix = REGIONS.get(region)
    for text in strings(by_region[region]):
        assert "arn:aws:" not in text or region == "us-east-1"
        assert "amazonaws.com" not in text.replace(suffix or "…", "") or UNIVERSAL.fullmatch(text)


@pytest.mark.parametrize("region", [*REGIONS, None])
def test_the_keys_policy_names_cloudwatch_logs_of_the_region(by_region, region):
    for key in resources(by_region[region], "AWS::KMS::Key").values():
        (principal,) = (
            statement["Principal"]["Service"]
            for statement in key["Properties"]["KeyPolicy"]["Statement"]
            if "kms:EncryptionContext:aws:logs:arn" in json.dumps(statement)
        )
        if region is None:
            parts = ["logs.", {"Ref": "AWS::Region"}, ".", {"Ref": "AWS::URLSuffix"}]
            assert principal == {"Fn::Join": ["", parts]}
        else:
            suffix = {"Ref": "AWS::URLSuffix"}
            assert principal in (
                f"logs.{region}.{REGIONS[region]}",
                {"Fn::Join": ["", [f"logs.{region}.", suffix]]},
            )


def test_services_that_write_logs_share_one_statement(by_region):
    template = by_region[None]
    groups = resources(template, "AWS::Logs::LogGroup")
    written = [
        machine["Properties"]["LoggingConfiguration"]["Destinations"][0]["CloudWatchLogsLogGroup"]["LogGroupArn"]
        for machine in resources(template, "AWS::StepFunctions::StateMachine").values()
    ] + [
        pipe["Properties"]["LogConfiguration"]["CloudwatchLogsLogDestination"]["LogGroupArn"]
        for pipe in resources(template, "AWS::Pipes::Pipe").values()
    ]
    assert len(written) == 6  # two express and two standard workflows, two pipes
    for arn in written:
        name = groups[arn["Fn::GetAtt"][0]]["Properties"]["LogGroupName"]
        assert name["Fn::Join"][1][0].startswith("/aws/vendedlogs/")
        assert "AWS::StackId" in json.dumps(name)  # another one after the stack was deleted and its logs were kept


LIMITS = {
    "AWS::EC2::SecurityGroup": ("GroupDescription", 255),
    "AWS::Lambda::Function": ("Description", 256),
    "AWS::Events::Rule": ("Description", 512),
    "AWS::Pipes::Pipe": ("Description", 512),
    "AWS::IAM::Role": ("Description", 1000),
    "AWS::KMS::Key": ("Description", 8192),
}


@pytest.mark.parametrize("inner", ["写真の分類", '📷 Bücher & co\'s <très> "long"', "P" * 200, "9"], ids=range(4))
def test_names_of_any_length_and_script_deploy(inner):
    made = app()
    folder = Construct(cdk.Stage(made, "E" * 128), "環境")
    stack = add_pipelines(folder, "栈" + "S" * 199, inner=inner, stack_name="photos")
    template = Template.from_stack(stack).to_json()
    for kind, (name, most) in LIMITS.items():
        for logical_id, resource in resources(template, kind).items():
            text = resource["Properties"].get(name, "")
            assert len(text) <= most, logical_id
            # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
            assert re.fullmatch(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]*", text), logical_id
    for logical_id in template["Resources"]:
        assert re.fullmatch(r"[A-Za-z0-9]{1,255}", logical_id)
    for group in resources(template, "AWS::Logs::LogGroup").values():
        name = group["Properties"].get("LogGroupName", {"Fn::Join": ["", []]})
        written = name["Fn::Join"][0].join(part if isinstance(part, str) else "0" * 64 for part in name["Fn::Join"][1])
        assert re.fullmatch(r"[.\-_/#A-Za-z0-9]{0,512}", written)
    for machine in resources(template, "AWS::StepFunctions::StateMachine").values():
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        definition = json.loads("".join(piece if isinstance(piece, str) else "token" for piece in pieces))
        assert max(map(len, definition["States"])) <= 80


def test_a_description_keeps_both_ends():
    text = "reads objects of " + "x" * 300 + "/Photos"
    assert len(described(text, 256)) == 256
    assert described(text, 256).startswith("reads objects of xx")
    assert described(text, 256).endswith("xx/Photos")
    assert described("short", 256) == "short"


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"prefix": "写真/"}, "prefix must consist of printable Latin-1 characters, got '写真/'"),
        ({"prefix": "in\n"}, "prefix must consist of printable Latin-1 characters"),
        ({"prefix": "p" * 1025}, "prefix must have at most 1024 bytes, as keys of S3 do, got 1025"),
        ({"prefix": "p" * 900, "suffixes": [".jpg", ".png", ".gif"]}, "of at most 4,096 characters, got 5"),
        (
            {"max_batching_window": cdk.Duration.seconds(0)},
            "max_batching_window must be at least 1 s for batches of more than 10, got 0 s with batch_size=32",
        ),
    ],
)
def test_what_cloudformation_would_refuse_fails_at_synth(stack, props, message):
    with pytest.raises(PropError, match=re.escape(message)):
        S3Trigger(stack, "Trigger", **props)


def test_a_pattern_above_the_default_quota_warns(stack):
    S3Trigger(stack, "Short", prefix="p" * 800, suffixes=[".jpg"])
    Annotations.from_stack(stack).has_no_warning("*", Match.string_like_regexp("event pattern"))
    S3Trigger(stack, "Long", prefix="p" * 950, suffixes=[".jpg"])
    Annotations.from_stack(stack).has_warning("/Stack/Long", Match.string_like_regexp("at most 2,048 characters, got"))


@pytest.mark.parametrize("prefix", ["/in/", "bücher/", "in (1)/#&'\"/"])
def test_prefixes_that_s3_and_iam_accept(stack, pipeline, prefix):
    pipeline(prefix=prefix, batch_size=10, max_batching_window=cdk.Duration.seconds(0))
    (rule,) = resources(stack, "AWS::Events::Rule").values()
    assert rule["Properties"]["EventPattern"]["detail"]["object"] == {"key": [{"prefix": prefix}]}
    assert json.dumps(f"/{prefix}*")[1:-1] in json.dumps(resources(stack, "AWS::IAM::Policy"))


def in_region(made, id, region="eu-west-1", account=ACCOUNT):
    return cdk.Stack(made, id, env=cdk.Environment(account=account, region=region))


@pytest.mark.parametrize(("region", "account"), [("us-east-1", ACCOUNT), ("eu-west-1", "222222222222")])
def test_a_bucket_of_another_account_or_region_fails(region, account):
    made = app()
    here, there = in_region(made, "Here"), in_region(made, "There", region, account)
    which = f"Region of stack 'Here', eu-west-1, got one in {region}"
    if account != ACCOUNT:
        which = f"account of stack 'Here', {ACCOUNT}, got one in {account}"
    for bucket in (
        s3.Bucket(there, "Inbox", bucket_name="theirs", event_bridge_enabled=True),
        s3.Bucket.from_bucket_attributes(here, "Theirs", bucket_name="theirs", region=region, account=account),
    ):
        fix = "move the pipeline there, or import the bucket by its name and forward"
        with pytest.raises(PropError, match=f"bucket must be in the {which}; {fix}"):
            S3Trigger(here, f"Trigger{bucket.node.id}", bucket=bucket)


def test_a_table_and_a_key_of_another_region_fail():
    made = app()
    here, there = in_region(made, "Here"), in_region(made, "There", "us-east-1")
    model = ModelArtifact(here, "Model", recipe=RECIPE)
    results = ResultsTable(there, "Results")
    with pytest.raises(PropError, match="results must be in the Region of stack 'Here', eu-west-1, got one in us-east"):
        InferencePipeline(here, "A", model=model, preprocess=Preprocess.image(size=224), results=results)
    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1"
    key = kms.Key.from_key_arn(here, "Theirs", arn)
    message = "encryption_key must be in the Region of stack 'Here', eu-west-1, got one in us-east-1"
    for part in (S3Trigger, ResultsTable, WorkBucket):
        with pytest.raises(PropError, match=message):
            part(here, part.__name__, encryption_key=key)
    with pytest.raises(PropError, match=message):
        InferencePipeline(here, "B", model=model, preprocess=Preprocess.image(size=224), encryption_key=key)


def test_what_is_known_only_at_deployment_is_not_checked(stack):
    anywhere = cdk.Stack(stack.node.root, "Anywhere")
    S3Trigger(stack, "A", bucket=s3.Bucket(anywhere, "Inbox", event_bridge_enabled=True))
    known = in_region(stack.node.root, "Known")
    S3Trigger(
        known, "B", bucket=s3.Bucket.from_bucket_name(known, "Name", "photos"), encryption_key=kms.Key(known, "K")
    )
    arn = cdk.CfnParameter(stack, "Key").value_as_string
    S3Trigger(stack, "C", encryption_key=kms.Key.from_key_arn(stack, "Parameter", arn))


def test_expressions_are_what_validators_recognize(by_region):
    """One line each, and no empty text that is assigned: asl-validator and AWS's language service stumble over both."""
    for machine in resources(by_region[None], "AWS::StepFunctions::StateMachine").values():
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        definition = json.loads("".join(piece if isinstance(piece, str) else "token" for piece in pieces))
        for text in strings(definition):
            assert "\n" not in text
            assert text
