"""The template of devices: component, deployment and parameters, who may do what, and what is refused."""

from __future__ import annotations

import json
import re
import zipfile
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_greengrassv2 as greengrass
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from ministack.core import iam_evaluator
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    DeviceName,
    EdgeComponent,
    EdgeInput,
    EdgeTraffic,
    Explain,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    QueueTrigger,
    ResultsTable,
    Route,
    Routing,
    S3Trigger,
)
from cdk_inference.common.platform import CONTEXT_KEY
from cdk_inference.edge.package import EdgePackage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

GROUP = "arn:aws:iot:eu-west-1:123456789012:thinggroup/cameras"
PSEUDO = {"AWS::Partition": "aws", "AWS::Region": "eu-west-1", "AWS::AccountId": "123456789012"}
LIMITS: dict[str, Any] = {"max_spool": cdk.Size.gibibytes(2), "max_uplink": cdk.Size.bytes(50_000)}
FOLDER = [EdgeInput.folder("/in")]


def small(stack: cdk.Stack, **props: Any) -> Route:
    return Route(
        "small", model=ModelArtifact(stack, "Small", recipe=RECIPE), preprocess=Preprocess.image(size=224), **props
    )


def make_pipeline(stack: cdk.Stack, **props: Any) -> InferencePipeline:
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return InferencePipeline(stack, "Photos", **{"model": model, "preprocess": Preprocess.image(size=224), **props})


@pytest.fixture
def edge(stack: cdk.Stack) -> Callable[..., EdgeComponent]:
    pipeline = make_pipeline(stack)
    return lambda **props: pipeline.add_edge(**{"route": small(stack), "inputs": FOLDER, **props})


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """A pipeline for devices of all kinds, as CloudFormation gets it."""
    stack = make_stack()
    pipeline = make_pipeline(stack, prefix="in/")
    route = small(stack)
    found = pipeline.add_edge(route=route, inputs=[*FOLDER, EdgeInput.mqtt(topic="frames")], threshold=0.8, **LIMITS)
    found.add_deployment(
        "Fleet", target_arn=GROUP, components={"aws.greengrass.Cli": "2.14.0"}, settings={"WATCH_FOLDER": "/camera"}
    )
    for name, device in (
        ("Things", {}),
        ("Certificates", {"device": DeviceName.OF_CERTIFICATE}),
        ("One", {"device": "gateway-7"}),
    ):
        role = iam.Role(stack, name, assumed_by=iam.ServicePrincipal("credentials.iot.amazonaws.com"))
        found.grant_device(role, **device)
    silent = pipeline.add_edge("Silent", route=route, inputs=FOLDER, threshold=0, results=False)
    silent.grant_device(iam.User(stack, "Quiet"))
    return cdk.assertions.Template.from_stack(stack).to_json()


def recipes(template: dict[str, Any]) -> dict[str, Any]:
    """Return the recipes by the names of the components."""
    found = [
        each["Properties"]["InlineRecipe"]
        for each in resources(template, "AWS::GreengrassV2::ComponentVersion").values()
    ]
    made = [json.loads(_text(each)) for each in found]
    return {each["ComponentName"]: each for each in made}


def _text(value: Any) -> str:
    """Return a value as it is in a stack of some account."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(map(_text, parts))
        case {"Ref": name}:
            return PSEUDO.get(name, str(name))
        case {"Fn::GetAtt": [name, _]}:
            return f"arn:aws:any:::{name}"
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{(.*?)\}", lambda found: PSEUDO[found[1]], text)
    return str(value)


def test_a_component_names_the_resources_of_the_pipeline(template: dict[str, Any]) -> None:
    found = recipes(template)["Stack.Photos.Edge"]
    for manifest in found["Manifests"]:
        environment = manifest["Lifecycle"]["Setenv"]
        (artifact,) = manifest["Artifacts"]
        assert environment["INBOX_BUCKET"].startswith("PhotosTriggerInbox")
        assert environment["RESULTS_TABLE"].startswith("PhotosResultsTable")
        assert environment["INBOX_PREFIX"] == "in/edge/{iot:thingName}/"
        folder = environment["PYTHONPATH"].rpartition("/")[2]
        assert artifact["Uri"] == f"s3://cdk-hnb659fds-assets-123456789012-eu-west-1/{folder}.zip"
    defaults = found["ComponentConfiguration"]["DefaultConfiguration"]
    assert (defaults["WATCH_FOLDER"], defaults["MQTT_TOPIC"]) == ("/in", "frames")
    assert (defaults["MAX_SPOOL_BYTES"], defaults["UPLINK_BYTES_PER_SECOND"]) == (str(2 * 1024**3), "50000")
    silent = recipes(template)["Stack.Photos.Silent"]
    assert "RESULTS_TABLE" not in silent["Manifests"][0]["Lifecycle"]["Setenv"]


def test_a_deployment_goes_back_where_it_fails(template: dict[str, Any]) -> None:
    (deployment,) = resources(template, "AWS::GreengrassV2::Deployment").values()
    assert deployment["Properties"] == {
        "TargetArn": GROUP,
        "DeploymentName": "Stack.Photos.Edge 1.0.0",
        "Components": {
            "Stack.Photos.Edge": {
                "ComponentVersion": "1.0.0",
                # A device that has the component would keep the configuration that it has.
                "ConfigurationUpdate": {"Reset": [""], "Merge": '{"WATCH_FOLDER": "/camera"}'},
            },
            "aws.greengrass.Cli": {"ComponentVersion": "2.14.0"},
        },
        "DeploymentPolicies": {
            "FailureHandlingPolicy": "ROLLBACK",
            "ComponentUpdatePolicy": {"Action": "NOTIFY_COMPONENTS", "TimeoutInSeconds": 60},
        },
    }
    assert deployment["DependsOn"]


def test_a_rollout_may_be_slow_and_end_early(stack: cdk.Stack) -> None:
    edge = make_pipeline(stack).add_edge(route=small(stack), inputs=FOLDER, threshold=0.5)
    kind = greengrass.CfnDeployment
    edge.add_deployment(
        "Fleet",
        target_arn=GROUP,
        iot_job_configuration=kind.DeploymentIoTJobConfigurationProperty(
            job_executions_rollout_config=kind.IoTJobExecutionsRolloutConfigProperty(maximum_per_minute=50)
        ),
    )
    (deployment,) = resources(stack, "AWS::GreengrassV2::Deployment").values()
    rollout = deployment["Properties"]["IotJobConfiguration"]["JobExecutionsRolloutConfig"]
    assert rollout == {"MaximumPerMinute": 50}


def test_a_parameter_for_each_architecture_names_the_package(template: dict[str, Any]) -> None:
    parameters = [
        each
        for each in resources(template, "AWS::SSM::Parameter").values()
        if each["Metadata"]["cdk-inference"]["component"] == "Stack.Photos.Edge"
    ]
    assert {each["Metadata"]["cdk-inference"]["architecture"] for each in parameters} == {"arm64", "x86_64"}
    for parameter in parameters:
        architecture = parameter["Metadata"]["cdk-inference"]["architecture"]
        assert parameter["Properties"]["Name"] == f"/cdk-inference/Stack.Photos.Edge/{architecture}"
        wanted = json.loads(_text(parameter["Properties"]["Value"]))
        assert set(wanted) == {"bucket", "key", "sha256", "version"}
        assert wanted["bucket"].startswith("cdk-hnb659fds-assets-")
        assert len(wanted["sha256"]) == 64


class Role:
    """The rights of a role of the template, by MiniStack's evaluator of policies."""

    def __init__(self, template: dict[str, Any], name: str, variables: Mapping[str, str]) -> None:
        (policy,) = (
            each["Properties"]["PolicyDocument"]
            for key, each in resources(template, "AWS::IAM::Policy").items()
            if key.startswith(f"{name}DefaultPolicy")
        )
        text = json.dumps(_resolved(policy))
        for variable, value in variables.items():
            text = text.replace(variable, value)
        self._statements = iam_evaluator.parse_policy_document(text)

    def may(self, action: str, resource: str, **context: Any) -> bool:
        asked = iam_evaluator.EvalContext(
            principal_arn="arn:aws:iam::123456789012:role/devices",
            principal_type="AssumedRole",
            principal_account="123456789012",
            action=action,
            resource_arn=resource,
            region="eu-west-1",
            source_ip="10.0.0.1",
            secure_transport=True,
            service_context=context,
        )
        return bool(iam_evaluator.evaluate(asked, [self._statements]).decision == "Allow")


def _resolved(value: Any) -> Any:
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    if isinstance(value, dict) and not any(key == "Ref" or key.startswith("Fn::") for key in value):
        return {key: _resolved(each) for key, each in value.items()}
    return value if isinstance(value, str) else _text(value)


@pytest.mark.parametrize(
    ("name", "variables", "device"),
    [
        ("Things", {DeviceName.OF_THING: "camera-1"}, "camera-1"),
        ("Certificates", {DeviceName.OF_CERTIFICATE: "camera-1"}, "camera-1"),
        ("One", {}, "gateway-7"),
    ],
)
def test_a_device_may_do_its_part_and_not_that_of_its_neighbour(
    template: dict[str, Any], name: str, variables: dict[str, str], device: str
) -> None:
    role = Role(template, name, variables)
    (inbox,) = (key for key in resources(template, "AWS::S3::Bucket") if "Inbox" in key)
    (table,) = resources(template, "AWS::DynamoDB::GlobalTable")
    inbox, table = f"arn:aws:any:::{inbox}", f"arn:aws:any:::{table}"
    parameters = resources(template, "AWS::SSM::Parameter")
    for parameter in parameters.values():
        own = parameter["Metadata"]["cdk-inference"]["component"] == "Stack.Photos.Edge"
        named = parameter["Properties"]["Name"]
        assert role.may("ssm:GetParameter", f"arn:aws:ssm:eu-west-1:123456789012:parameter{named}") == own
        if own:
            wanted = json.loads(_text(parameter["Properties"]["Value"]))
            package = f"arn:aws:s3:::{wanted['bucket']}/{wanted['key']}"
            assert role.may("s3:GetObject", package)
            assert not role.may("s3:PutObject", package)
            assert not role.may("s3:GetObject", f"arn:aws:s3:::{wanted['bucket']}/{'0' * 64}.zip")

    assert role.may("s3:PutObject", f"{inbox}/in/edge/{device}/a/b.jpg")
    assert not role.may("s3:PutObject", f"{inbox}/in/edge/{device}0/b.jpg")
    assert not role.may("s3:PutObject", f"{inbox}/in/edge/other/b.jpg")
    assert not role.may("s3:PutObject", f"{inbox}/in/b.jpg")
    for action in ("s3:GetObject", "s3:DeleteObject", "s3:PutObjectAcl"):
        assert not role.may(action, f"{inbox}/in/edge/{device}/a/b.jpg")
    assert not role.may("s3:ListBucket", inbox)

    def put(*keys: str) -> bool:
        return role.may("dynamodb:PutItem", table, **{"dynamodb:leadingkeys": list(keys)})

    assert put(f"edge:{device}/a.jpg")
    assert not put(f"edge:{device}0/a.jpg")
    assert not put("edge:other/a.jpg")
    assert not put("inbox/in/a.jpg")
    assert not put(f"edge:{device}/a.jpg", "edge:other/a.jpg")
    assert not role.may("dynamodb:PutItem", table), "a request without keys is none for a row of its own"
    for action in ("dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:Query"):
        assert not role.may(action, table, **{"dynamodb:leadingkeys": [f"edge:{device}/a.jpg"]})


def test_devices_without_rows_may_not_write_any(template: dict[str, Any]) -> None:
    role = Role(template, "Quiet", {DeviceName.OF_THING: "camera-1"})
    (table,) = resources(template, "AWS::DynamoDB::GlobalTable")
    (inbox,) = (key for key in resources(template, "AWS::S3::Bucket") if "Inbox" in key)
    assert role.may("s3:PutObject", f"arn:aws:any:::{inbox}/in/edge/camera-1/b.jpg")
    context = {"dynamodb:leadingkeys": ["edge:camera-1/b.jpg"]}
    assert not role.may("dynamodb:PutItem", f"arn:aws:any:::{table}", **context)


def test_no_policy_for_devices_has_a_wildcard_for_an_action_or_everything(template: dict[str, Any]) -> None:
    for key, policy in resources(template, "AWS::IAM::Policy").items():
        if not key.startswith(("Things", "Certificates", "One", "Quiet")):
            continue
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            assert statement["Resource"] != "*"
            actions = statement["Action"]
            assert not any("*" in action for action in ([actions] if isinstance(actions, str) else actions))


def test_the_local_target_has_no_greengrass() -> None:
    stack = make_stack(**{CONTEXT_KEY: "3.12/x86_64"})
    found = make_pipeline(stack).add_edge(route=small(stack), inputs=FOLDER, threshold=0.5)
    assert found.component is None
    assert found.add_deployment("Fleet", target_arn=GROUP) is None
    assert list(found.parameters) == ["x86_64"]
    assert not resources(stack, "AWS::GreengrassV2::ComponentVersion")


def test_suffixes_of_the_trigger_are_those_of_the_folder(stack: cdk.Stack) -> None:
    pipeline = make_pipeline(stack, suffixes=[".JPG", ".png"])
    pipeline.add_edge(route=small(stack), inputs=FOLDER, threshold=0.5)
    (found,) = recipes(cdk.assertions.Template.from_stack(stack).to_json()).values()
    assert found["ComponentConfiguration"]["DefaultConfiguration"]["WATCH_SUFFIXES"] == ".JPG,.jpg,.png,.PNG"
    for settings in ({"MQTT_TOPIC": "a"}, {"WATCH_SUFFIXES": ".gif"}):
        with pytest.raises(PropError, match="to the trigger, which has suffixes"):
            pipeline.edges[0].add_deployment("Fleet", target_arn=GROUP, settings=settings)


def test_a_version_changes_with_what_it_has_and_only_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"edge.json": b"{}", "code.py": b"1", "model/model.onnx": b"0"}
    monkeypatch.setattr(EdgePackage, "contents", lambda package, platform: dict(files))
    number = 0

    def built(**props: Any) -> Path:
        nonlocal number
        number += 1
        stack = make_stack()
        given = {"route": small(stack), "inputs": FOLDER, "threshold": 0.5, **props}
        written = make_pipeline(stack).add_edge(**given).write_installation(tmp_path / str(number), "arm64")
        return written[0]

    first, again = built(), built()
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())
    with zipfile.ZipFile(first) as archive:
        version = json.loads(archive.read("edge.json"))["version"]
    assert re.fullmatch(r"1\.0\.[0-9]{1,9}", version)
    assert first.name == f"Stack.Photos.Edge-{version}-arm64.zip"
    others = [
        built(inputs=[EdgeInput.folder("/other")]),
        built(results=False),
        built(python="3.12"),
        built(architectures=["arm64"]),
        built(version="2.3"),
    ]
    files["code.py"] = b"2"
    others.append(built())
    assert len({first.name, *(each.name for each in others)}) == 7
    assert others[4].name.startswith("Stack.Photos.Edge-2.3.")


def test_rows_of_devices_expire_as_those_of_the_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: dict[str, Mapping[str, str]] = {}

    def contents(package: EdgePackage, platform: object) -> dict[str, bytes]:
        made[package.name] = package.rows
        return {"edge.json": b"{}"}

    monkeypatch.setattr(EdgePackage, "contents", contents)
    stack = make_stack()
    results = ResultsTable(stack, "Results", indexes=["label"])
    pipeline = make_pipeline(stack, results=results, result_ttl=cdk.Duration.days(30))
    route = small(stack)
    for name, rows in (("Edge", True), ("Silent", False)):
        pipeline.add_edge(name, route=route, inputs=FOLDER, threshold=0.5, results=rows)
    for edge in pipeline.edges:
        edge.write_installation(tmp_path, "arm64")
    assert made == {
        "Stack.Photos.Edge": {"RESULT_TTL_DAYS": "30", "LABEL_INDEX": "label"},
        "Stack.Photos.Silent": {},
    }


def test_a_long_or_foreign_path_still_makes_a_name() -> None:
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Zürich", stack_name="S" * 120)
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    pipeline = InferencePipeline(stack, "Bäume" * 10, model=model, preprocess=Preprocess.image(size=224))
    found = pipeline.add_edge(route=small(stack), inputs=FOLDER, threshold=0.5)
    assert found.component_name.isascii()
    assert len(found.component_name) <= 128


def test_an_expectation_is_in_the_template(stack: cdk.Stack) -> None:
    traffic = EdgeTraffic(devices=10, items_per_day=1000, item_bytes=1e5)
    found = make_pipeline(stack).add_edge(
        route=small(stack), inputs=FOLDER, threshold=0, traffic=traffic, max_uplink=cdk.Size.bytes(50_000)
    )
    template = cdk.assertions.Template.from_stack(stack).to_json()
    (component,) = resources(template, "AWS::GreengrassV2::ComponentVersion").values()
    expected = component["Metadata"]["cdk-inference"]["expected"]
    assert (expected["items_sent_per_day"], expected["bytes_sent_per_day"], expected["uplink_share"]) == (0, 0, 0)
    assert (expected["devices"], expected["usd_by"]["uploads"]) == (10, 0)
    assert found._uplink_share(43_200 * 50_000) == {"uplink_share": 0.5}
    assert found.costs is not None
    assert any("0 % of the items go to the cloud" in str(output["Value"]) for output in template["Outputs"].values())


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"inputs": []}, "inputs must be one or more of EdgeInput, got none"),
        ({"inputs": [*FOLDER, *FOLDER]}, "inputs must be of different kinds, got EdgeInput.folder 2 times"),
        ({"architectures": []}, "architectures must be one or two, got none"),
        ({"architectures": ["arm"]}, "architectures"),
        ({"python": "3.9"}, "python must be"),
        ({"version": "1"}, "version must be of the form '1.0', got '1'"),
        ({"version": "01.0"}, "version must be of the form '1.0', got '01.0'"),
        ({"name": "a b"}, "name must be 1 to 128 letters, digits, '.', '_' and '-', got 'a b'"),
        ({"name": "aws.greengrass.Mine"}, "name must be a name of yours, without 'aws.greengrass.'"),
        ({"threshold": 1.1}, "threshold must be 0 to 1, got 1.1"),
        ({"threshold": 0.5, "agreement": 0.9}, "threshold must be left out with agreement"),
        ({"agreement": 0.0}, "agreement must be above 0 and at most 1, got 0.0"),
        (
            {"max_spool": cdk.Size.mebibytes(1)},
            "max_spool must hold an object.*67,174,400 bytes, got 1,",
        ),
        ({"max_uplink": cdk.Size.bytes(4095)}, "max_uplink must be at least 4096, got 4095"),
        ({"results_folder": "out"}, "results_folder must be an absolute path"),
        ({"inputs": [EdgeInput.folder("/" + "a" * 4000)]}, "must have at most 7,400 bytes.*shorten WATCH_FOLDER"),
    ],
)
def test_a_prop_that_cannot_work_fails(edge: Callable[..., EdgeComponent], props: dict[str, Any], message: str) -> None:
    with pytest.raises(PropError, match=message):
        edge(**props)


def test_a_route_that_devices_cannot_run_fails(stack: cdk.Stack) -> None:
    pipeline = make_pipeline(stack)
    model, preprocess = ModelArtifact(stack, "Small", recipe=RECIPE), Preprocess.image(size=224)
    for props, message in (
        ({"inference": Inference.gpu()}, "route must be a route on a CPU, got 'small' on a GPU"),
        ({"postprocess": Postprocess.segmentation(labels=["x", "y"])}, "route must not make masks outside of AWS"),
        ({"explain": Explain.always()}, "route must not explain its answers outside of AWS"),
    ):
        with pytest.raises(PropError, match=message):
            pipeline.add_edge(route=Route("small", model=model, preprocess=preprocess, **props), inputs=FOLDER)
    same = Route("same", model=next(iter(pipeline.described_routes.values())).model, preprocess=preprocess)
    with pytest.raises(PropError, match="route must have another model than the pipeline, got 'tiny' for both"):
        pipeline.add_edge(route=same, inputs=FOLDER)


def test_several_models_of_the_pipeline_need_a_choice(stack: cdk.Stack) -> None:
    one, two = (
        Route(name, model=ModelArtifact(stack, name, recipe=RECIPE), preprocess=Preprocess.image(size=224))
        for name in ("one", "two")
    )
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.cascade(first=one, then=two, threshold=0.5))
    route = small(stack)
    with pytest.raises(PropError, match=r"then must name the route.*got None for a pipeline of two, one; pass"):
        pipeline.add_edge(route=route, inputs=FOLDER)
    assert pipeline.add_edge(route=route, inputs=FOLDER, then=two).escalation.calibration is not None
    assert pipeline.add_edge("Given", route=route, inputs=FOLDER, threshold=0.7).escalation.threshold == 0.7


def test_a_trigger_that_devices_cannot_reach_fails(stack: cdk.Stack) -> None:
    queue = make_pipeline(stack, trigger=QueueTrigger(stack, "Queue"))
    route = small(stack)
    with pytest.raises(PropError, match="trigger must be an S3Trigger for devices, got QueueTrigger"):
        queue.add_edge(route=route, inputs=FOLDER)
    bucket = s3.Bucket.from_bucket_name(stack, "Bucket", "inbox")
    model = ModelArtifact(stack, "Other", recipe=RECIPE)

    def of(name: str, **props: Any) -> InferencePipeline:
        trigger = S3Trigger(stack, f"{name}Trigger", bucket=bucket, **props)
        return InferencePipeline(stack, name, model=model, preprocess=Preprocess.image(size=224), trigger=trigger)

    with pytest.raises(PropError, match=r"trigger must take all keys for EdgeInput\.mqtt"):
        of("Suffixes", suffixes=[".jpg"]).add_edge(route=route, inputs=[EdgeInput.mqtt(topic="a")], threshold=0.5)
    with pytest.raises(PropError, match="prefix must be without braces, which stand for variables"):
        of("Braces", prefix="a{b}/").add_edge(route=route, inputs=FOLDER, threshold=0.5)


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"target_arn": "arn:aws:s3:::bucket"}, "target_arn must be that of a thing or thing group"),
        ({"target_arn": GROUP, "settings": {"PATH": "/"}}, "settings must be 'WATCH_FOLDER'"),
        ({"target_arn": GROUP, "settings": {"WATCH_FOLDER": "in"}}, "WATCH_FOLDER must be an absolute path"),
        (
            {"target_arn": GROUP, "settings": {"MQTT_URL": "mqtts://me:secret@host"}},
            "MQTT_URL must be without a password",
        ),
        ({"target_arn": GROUP, "settings": {"MQTT_TOPIC": "a/#/b"}}, "MQTT_TOPIC must have"),
        ({"target_arn": GROUP, "settings": {"MQTT_RESULT_TOPIC": "#"}}, "MQTT_RESULT_TOPIC must be without"),
        ({"target_arn": GROUP, "settings": {"MAX_SPOOL_BYTES": "1GB"}}, "MAX_SPOOL_BYTES must be a number of bytes"),
        ({"target_arn": GROUP, "settings": {"MAX_SPOOL_BYTES": "67108864"}}, "MAX_SPOOL_BYTES must hold an object of"),
        (
            {"target_arn": GROUP, "settings": {"UPLINK_BYTES_PER_SECOND": "0"}},
            "UPLINK_BYTES_PER_SECOND must be a number",
        ),
        ({"target_arn": GROUP, "settings": {"WATCH_SUFFIXES": "jpg"}}, "WATCH_SUFFIXES must be such as"),
        ({"target_arn": GROUP, "components": {"a b": "1.0.0"}}, "components must be 1 to 128 letters"),
        ({"target_arn": GROUP, "components": {"a": "latest"}}, "components must be versions such as '2.14.0'"),
    ],
)
def test_a_deployment_that_cannot_work_fails(
    edge: Callable[..., EdgeComponent], props: dict[str, Any], message: str
) -> None:
    with pytest.raises(PropError, match=message):
        edge(threshold=0.5).add_deployment("Fleet", **props)


@pytest.mark.parametrize("device", ["", "*", "a/b", "${aws:username}", "a" * 129])
def test_a_name_of_a_device_that_is_a_pattern_fails(
    stack: cdk.Stack, edge: Callable[..., EdgeComponent], device: str
) -> None:
    with pytest.raises(PropError, match="device must be a name of letters"):
        edge(threshold=0.5).grant_device(iam.User(stack, "User"), device=device)
