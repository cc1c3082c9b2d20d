"""Props of the wrong type are refused before anything is made of them, by name, with the value and a fix."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

import cdk_inference
from cdk_inference import (
    Capacity,
    CapacitySchedule,
    CpuOption,
    Inference,
    InferenceNetwork,
    InferencePipeline,
    LambdaGpu,
    LambdaPlatform,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    ResultsTable,
    Route,
    Routing,
    S3Trigger,
    Traffic,
)
from cdk_inference.capacity.managed_instances import ManagedInstancesOptions
from cdk_inference.common.props.prop_types import find_wrong
from cdk_inference.explanations.explain import ExplainOptions
from cdk_inference.model import Float16
from cdk_inference.pipeline.deprecated import OldProps
from cdk_inference.stages.base import FunctionOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OPTIONS = {
    "Any": (),  # CDK's, which checks them
    "Unpack[ExplainOptions]": tuple(ExplainOptions.__annotations__),
    "Unpack[FunctionOptions]": tuple(FunctionOptions.__annotations__),
    "Unpack[ManagedInstancesOptions]": tuple(ManagedInstancesOptions.__annotations__),
    "Unpack[OldProps]": tuple(OldProps.__annotations__),
}
ANYTHING = {("GpuInference.task", "output"), ("StageFunction.task", "output")}
"""These props are annotated with `object`."""


class Odd:
    """Its type fits no prop."""


def signatures() -> Iterator[tuple[str, Callable[..., object], Callable[..., object]]]:
    """Each constructor, factory and method of each public class: how to call it, and what says what it takes."""
    for name in cdk_inference.__all__:
        cls = getattr(cdk_inference, name)
        if not inspect.isclass(cls) or issubclass(cls, Exception) or is_protocol(cls):
            continue
        if "__init__" in vars(cls) and not inspect.isabstract(cls):
            yield name, cls, cls.__init__
        for member, value in vars(cls).items():
            if member.startswith("_"):
                continue
            if isinstance(value, classmethod | staticmethod):
                yield f"{name}.{member}", getattr(cls, member), value.__func__
            elif inspect.isfunction(value):
                yield f"{name}.{member}", partial(value, None), value


def is_protocol(cls: type) -> bool:
    return getattr(cls, "_is_protocol", False)


def public_props() -> list[Any]:
    found = []
    for name, call, function in signatures():
        parameters = inspect.signature(function).parameters.values()
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in {"self", "cls"}]
        for options in (p.annotation for p in parameters if p.kind is p.VAR_KEYWORD):
            names += OPTIONS[options]
        found += [pytest.param(call, prop, id=f"{name}-{prop}") for prop in names if (name, prop) not in ANYTHING]
    return found


@pytest.mark.parametrize(("call", "prop"), public_props())
def test_each_public_prop_of_a_wrong_type_fails(call: Callable[..., object], prop: str) -> None:
    with pytest.raises(PropError) as raised:
        call(**{prop: Odd()})
    assert str(raised.value).startswith(f"{prop} must be ")
    assert ", got an instance of Odd" in str(raised.value)


def test_walk_over_the_public_props_finds_them() -> None:
    found = {parameter.id for parameter in public_props()}
    assert {"InferencePipeline-batch_size", "Routing.split-weights", "Traffic-items_per_month"} <= found
    assert len(found) > 250


def odd_function() -> None: ...


@pytest.mark.parametrize(
    ("call", "props", "message"),
    [
        (InferencePipeline, {"batch_size": "32"}, "batch_size must be an int, got str '32'; use 32"),
        (InferencePipeline, {"batch_size": True}, "batch_size must be an int, got bool True"),
        (InferencePipeline, {"batch_size": 8.0}, "batch_size must be an int, got float 8.0; use 8"),
        (
            InferencePipeline,
            {"batch_size": None},
            "batch_size must be an int, got None; leave it out for its default, 32",
        ),
        (
            InferencePipeline,
            {"execution": "fused"},
            "execution must be an ExecutionStrategy, got str 'fused'; use Execution.staged or Execution.fused",
        ),
        (
            InferencePipeline,
            {"stage_timeout": 60},
            "stage_timeout must be a Duration, got int 60; use Duration.seconds(60)",
        ),
        (
            InferencePipeline,
            {"bucket": "name"},
            "bucket must be an IBucket, got str 'name'; "
            "use a Bucket, such as Bucket.from_bucket_name(self, 'Inbox', 'its-name')",
        ),
        (
            InferencePipeline,
            {"bucket": s3.Bucket},
            "bucket must be an IBucket, got the class Bucket; "
            "use a Bucket, such as Bucket.from_bucket_name(self, 'Inbox', 'its-name')",
        ),
        (
            InferencePipeline,
            {"results": dynamodb.TableV2},
            "results must be an IResultsTable, got the class TableV2; "
            "use ResultsTable(…) or ResultsTable.from_table_arn",
        ),
        (
            InferencePipeline,
            {"platform": "x86_64"},
            "platform must be a LambdaPlatform, got str 'x86_64'; use LambdaPlatform(architecture='x86_64')",
        ),
        (
            InferencePipeline,
            {"capacity": True},
            "capacity must be a CapacityStrategy, got bool True; use Capacity.snap_start, Capacity.provisioned, "
            "Capacity.keep_warm or Capacity.managed_instances",
        ),
        (
            InferencePipeline,
            {"preprocess": odd_function},
            "preprocess must be a Preprocess, got the function odd_function; use Preprocess.image, Preprocess.json, "
            "Preprocess.csv, Preprocess.text, Preprocess.audio, Preprocess.tensor, Preprocess.raw_tensor or "
            "Preprocess.function",
        ),
        (InferencePipeline, {"suffixes": ".jpg"}, "suffixes must be a list of str, got str '.jpg'; use ['.jpg']"),
        (InferencePipeline, {"suffixes": {".jpg"}}, "suffixes must be a list of str, got set {'.jpg'}; use a list"),
        (Preprocess.function, {"sources": "a"}, "sources must be a list of str or Path, got str 'a'; use ['a']"),
        (InferencePipeline, {"suffixes": [".jpg", 3]}, "suffixes[1] must be a str, got int 3"),
        (
            InferencePipeline,
            {"removal_policy": "destroy"},
            "removal_policy must be a RemovalPolicy, got str 'destroy'; use RemovalPolicy.DESTROY",
        ),
        (
            InferencePipeline,
            {"log_retention": 30},
            "log_retention must be a RetentionDays, got int 30; use a member, such as RetentionDays.ONE_DAY",
        ),
        (
            InferencePipeline,
            {"routing": {"a": 1}},
            "routing must be a Branch, got dict {'a': 1}; use a Route, or a strategy such as Routing.split",
        ),
        (
            InferencePipeline,
            {"batch_sise": 3},
            "InferencePipeline has no prop 'batch_sise'; did you mean 'batch_size'?",
        ),
        (Routing.split, {"weights": [0.5]}, "weights must be a dict of str to (float, Branch), got list [0.5]"),
        (Routing.split, {"weights": {"a": 0.5}}, "weights['a'] must be (float, Branch), got float 0.5"),
        (Routing.split, {"weights": {1: 0.5}}, "a key of weights must be a str, got int 1"),
        (
            ModelArtifact,
            {"recipe": 1},
            "recipe must be a str, Path or ModelRecipe, got int 1",
        ),
        (
            ModelArtifact,
            {"precision": Float16},
            "precision must be a Float32, Float16, StaticInt8, DynamicInt8, WeightOnly or PerGraph, got the class "
            "Float16; use Float16(…)",
        ),
        (
            InferencePipeline,
            {"capacity": Capacity.snap_start},
            "capacity must be a CapacityStrategy, got the function snap_start; call it: Capacity.snap_start(…)",
        ),
        (
            InferencePipeline,
            {"log_retention": None},
            "log_retention must be a RetentionDays, got None; leave it out for its default, RetentionDays.ONE_MONTH",
        ),
        (LambdaPlatform, {"python": 3.14}, "python must be a str, got float 3.14"),
        (LambdaGpu, {"regions": "us-east-1"}, "regions must be a list of str, got str 'us-east-1'; use ['us-east-1']"),
        (Preprocess.image, {"size": "224"}, "size must be an int, got str '224'; use 224"),
        (Preprocess.image, {"resize": 1}, "resize must be 'center_crop', 'stretch' or 'pad', got int 1"),
        (Traffic, {"items_per_month": "a million"}, "items_per_month must be a float, got str 'a million'"),
        (Traffic, {"items_per_month": "1e6"}, "items_per_month must be a float, got str '1e6'; use 1000000.0"),
        (Postprocess.classification, {"labels": [1, 2]}, "labels[0] must be a str, got int 1"),
    ],
)
def test_wrong_prop_names_the_value_and_the_fix_fails(
    call: Callable[..., object], props: dict[str, object], message: str
) -> None:
    with pytest.raises(PropError) as raised:
        call(**props)
    assert str(raised.value) == message


def test_swapped_tuple_fails(model: ModelArtifact) -> None:
    branch = Route("a", model=model, preprocess=Preprocess.tensor())
    with pytest.raises(PropError) as raised:
        Routing.split({"a": (branch, 0.5)})  # type: ignore[dict-item]
    assert str(raised.value) == "weights['a'] must be (float, Branch), got (Route, float); swap the two"


def test_scope_that_is_no_construct_fails() -> None:
    with pytest.raises(PropError, match="scope must be a Construct, got str 'Stack'; use self, or the stack"):
        ResultsTable("Stack", "Results")  # type: ignore[arg-type]


def test_option_that_is_handed_on_fails_by_its_name() -> None:
    stack = cdk.Stack()
    with pytest.raises(PropError, match="subnets must be a "):
        cdk_inference.CpuCapacity(stack, "Capacity", subnets="private")  # type: ignore[arg-type]


def test_grantee_that_is_no_grantable_fails() -> None:
    table = ResultsTable(cdk.Stack(), "Results")
    with pytest.raises(PropError, match="grantee must be an IGrantable, got str 'role'; use a role, a user or a"):
        table.grant_read_data("role")  # type: ignore[arg-type]


def test_labels_that_are_no_text_fail(tmp_path: Path) -> None:
    (tmp_path / "labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(PropError, match="labels must be a text file in UTF-8 with one name a line, got '"):
        Postprocess.classification(labels=tmp_path / "labels.npy")


def test_what_cdk_makes_fits() -> None:
    """Imported and looked-up resources, tokens, proxies of interfaces, and the defaults."""
    stack = cdk.Stack(cdk.App(), "Stack", env=cdk.Environment(account="111122223333", region="eu-west-1"))
    key = kms.Alias.from_alias_name(stack, "Alias", "alias/key")
    vpc = ec2.Vpc.from_lookup(stack, "Vpc", vpc_id="vpc-1")
    for kind, value in (
        (s3.IBucket, s3.Bucket.from_bucket_name(stack, "Named", "named")),
        (s3.IBucket, s3.Bucket(stack, "Bucket")),
        (kms.IKey, key),
        (ec2.IVpc, vpc),
        (ec2.ISubnet, vpc.private_subnets[0]),
        (ec2.ISecurityGroup, ec2.SecurityGroup.from_security_group_id(stack, "Group", "sg-1")),
        (int, cdk.Token.as_number({"Ref": "Number"})),
        (str, cdk.Token.as_string({"Ref": "Text"})),
        (list[str], cdk.Token.as_list({"Ref": "List"})),
        (float, 1),
        (logs.RetentionDays, logs.RetentionDays.ONE_DAY),
    ):
        assert find_wrong("value", value, kind) is None, kind
    assert find_wrong("value", vpc, s3.IBucket) is not None
    assert find_wrong("value", cdk.Token.as_string({"Ref": "Text"}), s3.IBucket) is not None
    assert find_wrong("value", cdk.Token.as_string({"Ref": "Text"}), int) is not None
    assert find_wrong("value", s3.Bucket(stack, "Other"), kms.IKey) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda _: Capacity.provisioned(
            2, schedules=(CapacitySchedule(min_capacity=1, hour=3),), target_utilization=0.7, max_capacity=4
        ),
        lambda _: Capacity.keep_warm(every=cdk.Duration.minutes(4)),
        lambda _: Inference.cpu(timeout=cdk.Duration.seconds(9), capacity=Capacity.snap_start()),
        lambda _: CpuOption("a", milliseconds=3),
        lambda stack: InferenceNetwork(stack, "Network", availability_zones=["eu-west-1a", "eu-west-1b"]),
        lambda stack: S3Trigger(stack, "Trigger", bucket=s3.Bucket(stack, "Bucket"), suffixes=(".jpg",)),
    ],
)
def test_right_types_pass(make: Callable[[cdk.Stack], object]) -> None:
    make(cdk.Stack(cdk.App(), "Stack", env=cdk.Environment(account="111122223333", region="eu-west-1")))


def test_right_values_import_nothing(tmp_path: Path) -> None:
    """An annotation names modules that take seconds to import; only a message needs them."""
    code = """
import sys
from cdk_inference import Traffic
before = set(sys.modules)
Traffic(items_per_month=1e6)
added = {name for name in set(sys.modules) - before if name.startswith(("aws_cdk", "cdk_inference"))}
assert not added, added
assert "aws_cdk" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
