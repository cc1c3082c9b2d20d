"""Where environments come from: on demand, a snapshot, provisioned, warmed, or instances without a GPU."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Annotations, Match, Template
from hypothesis import given
from hypothesis import strategies as st
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    CapacitySchedule,
    CpuInference,
    Execution,
    Inference,
    LambdaPlatform,
    ModelArtifact,
    PropError,
    WorkBucket,
)
from cdk_inference.bundling.packages import PackagedCode
from cdk_inference.capacity.capacity import Capacity
from cdk_inference.capacity.keep_warm import HOLD_MS
from cdk_inference.capacity.managed_instances import CpuCapacity
from cdk_inference.capacity.snap_start import violations_of
from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.stages.base import StageFunction
from inference_runtime.lifecycle import MAX_HOLD_MS, answers_warming


def infer(stack, id="Infer", **props):
    model = stack.node.try_find_child("Model") or ModelArtifact(stack, "Model", recipe=RECIPE)
    work = stack.node.try_find_child("Work") or WorkBucket(stack, "Work")
    return CpuInference(stack, id, model=model, work=work, **props)


def only(stack, kind):
    (resource,) = resources(stack, kind).values()
    return resource["Properties"]


def invoked(stack, inference):
    task = inference.task(stack, f"{inference.node.id}Task", payload={})
    return stack.resolve(task.to_state_json())["Arguments"]["FunctionName"]


def test_old_versions_go_once_the_alias_has_moved(stack):
    infer(stack)
    version = next(iter(resources(stack, "AWS::Lambda::Version").values()))
    assert version.get("DeletionPolicy", "Delete") == "Delete"
    (name,) = resources(stack, "AWS::Lambda::Version")
    assert only(stack, "AWS::Lambda::Alias")["FunctionVersion"] == {"Fn::GetAtt": [name, "Version"]}


def test_provisioned_concurrency_is_that_of_the_alias_that_is_invoked(stack):
    target = invoked(stack, infer(stack, capacity=Capacity.provisioned(3)))
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}
    assert only(stack, "AWS::Lambda::Alias")["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 3}


def test_no_provisioned_environment_fails():
    with pytest.raises(PropError, match="min_capacity must be at least 1, got 0"):
        Capacity.provisioned(0)


def test_less_is_not_reserved_than_is_provisioned(stack):
    infer(stack, "Enough", capacity=Capacity.provisioned(3), reserved_concurrent_executions=3)
    message = (
        r"reserved_concurrent_executions must be at least 3, .* provisioned, got 2; reserve more, or provision fewer"
    )
    with pytest.raises(PropError, match=message):
        infer(stack, capacity=Capacity.provisioned(3), reserved_concurrent_executions=2)


def test_what_is_known_at_deployment_only_may_be_anything(stack):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    infer(stack, capacity=Capacity.provisioned(number), reserved_concurrent_executions=1)
    config = only(stack, "AWS::Lambda::Alias")["ProvisionedConcurrencyConfig"]
    assert config == {"ProvisionedConcurrentExecutions": {"Ref": "Number"}}


def test_nothing_is_reserved_on_managed_instances(stack):
    with pytest.raises(PropError, match="must be left out on managed instances, got 2; max_environments"):
        infer(stack, memory_size=2048, capacity=Capacity.managed_instances(), reserved_concurrent_executions=2)


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_managed_instances_have_the_architecture_of_the_function(stack, architecture):
    inference = infer(
        stack,
        memory_size=4096,
        platform=LambdaPlatform(architecture=architecture),
        capacity=Capacity.managed_instances(min_environments=2, max_environments=4, concurrency=2),
    )
    target = invoked(stack, inference)
    assert only(stack, "AWS::Lambda::CapacityProvider")["InstanceRequirements"] == {"Architectures": [architecture]}
    function = only(stack, "AWS::Lambda::Function")
    assert function["Architectures"] == [architecture]
    config = function["CapacityProviderConfig"]["LambdaManagedInstancesCapacityProviderConfig"]
    assert config["PerExecutionEnvironmentMaxConcurrency"] == 2
    assert config["ExecutionEnvironmentMemoryGiBPerVCpu"] == 2
    assert "AcceleratorConfig" not in function
    assert only(stack, "AWS::Lambda::Version")["FunctionScalingConfig"] == {
        "MinExecutionEnvironments": 2,
        "MaxExecutionEnvironments": 4,
    }
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}


def test_functions_share_instances(stack):
    capacity = CpuCapacity(stack, "Instances", excluded_instance_types=["c7g.large"])
    for id in ("One", "Two"):
        infer(stack, id, memory_size=2048, capacity=Capacity.managed_instances(capacity=capacity))
    provider = only(stack, "AWS::Lambda::CapacityProvider")
    assert provider["InstanceRequirements"] == {"Architectures": ["arm64"], "ExcludedInstanceTypes": ["c7g.large"]}


def test_the_local_target_has_no_instances():
    stack = make_stack(**{"cdk-inference:accelerator": "cpu"})
    infer(stack, memory_size=2048, capacity=Capacity.managed_instances())
    assert not resources(stack, "AWS::Lambda::CapacityProvider")
    assert not resources(stack, "AWS::EC2::VPC")
    assert "CapacityProviderConfig" not in only(stack, "AWS::Lambda::Function")


def test_less_memory_than_an_instance_gives_fails(stack):
    with pytest.raises(
        PropError, match=r"memory_size must be 2048 to .* on a managed instance, where Infer runs, got 1769"
    ):
        infer(stack, capacity=Capacity.managed_instances())


def test_a_capacity_has_a_vpc_already(stack):
    capacity = CpuCapacity(stack, "Instances")
    with pytest.raises(PropError, match="vpc must be left out with capacity, got both"):
        Capacity.managed_instances(capacity=capacity, vpc=capacity.vpc)


def test_an_old_python_fails(stack):
    function = lambda_.Function(
        stack,
        "Old",
        runtime=lambda_.Runtime.PYTHON_3_12,
        handler="index.handler",
        code=lambda_.Code.from_inline("def handler(event, context): pass"),
        memory_size=2048,
    )
    with pytest.raises(
        PropError, match=r"Stack/Old must be Python 3\.13 or newer on managed instances, got python3\.12"
    ):
        CpuCapacity(stack, "Instances").add_function(function)


def test_a_region_without_instances_fails():
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(app, "Stack", env=cdk.Environment(account="111111111111", region="sa-east-1"))
    with pytest.raises(PropError, match=r"region of the stack must be one with managed instances .*, got sa-east-1"):
        CpuCapacity(stack, "Instances")


@dataclass(frozen=True)
class Ready:
    """A package that is there already."""

    code: PackagedCode

    def resolve(self, *_scope, **_name_and_platform):
        return self.code


def stage(stack, id="Stage", capacity=ON_DEMAND, **code):
    bucket = stack.node.try_find_child("Code") or s3.Bucket(stack, "Code")
    packaged = PackagedCode(
        lambda_.Code.from_bucket(bucket, "code.zip"),
        "inference_runtime.handlers.infer.handler",
        lambda_.Runtime.PYTHON_3_14,
        lambda_.Architecture.ARM_64,
    )
    return StageFunction(
        stack,
        id,
        package=Ready(replace(packaged, **code)),
        environment={},
        description="",
        memory_size=1769,
        timeout=cdk.Duration.seconds(30),
        capacity=capacity,
    )


# --- behind an alias ---


@pytest.mark.parametrize(
    "capacity",
    [ON_DEMAND, Capacity.snap_start(), Capacity.keep_warm(), Capacity.provisioned(1)],
    ids=["on-demand", "snapshots", "warmed", "provisioned"],
)
def test_an_alias_is_invoked(stack, capacity):
    target = invoked(stack, infer(stack, capacity=capacity))
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}
    properties = only(stack, "AWS::Lambda::Alias")
    assert properties["Name"] == "live"
    assert "SnapStart" not in properties


# --- snapshots ---


def test_a_version_with_a_snapshot_is_invoked_and_deleted_with_the_next(stack):
    inference = infer(stack, capacity=Capacity.snap_start())
    target = invoked(stack, inference)
    assert only(stack, "AWS::Lambda::Function")["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    (version,) = resources(stack, "AWS::Lambda::Version").values()
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}
    assert (version["DeletionPolicy"], version["UpdateReplacePolicy"]) == ("Delete", "Delete")
    # CDK warns of SnapStart without a published version, and there is one.
    Annotations.from_stack(stack).has_no_warning("*", Match.any_value())


def test_a_change_replaces_the_version_so_that_one_snapshot_is_left():
    names = []
    for memory_size in (1769, 3538):
        stack = make_stack()
        infer(stack, capacity=Capacity.snap_start(), memory_size=memory_size)
        names += resources(stack, "AWS::Lambda::Version")
    one, other = names
    assert one != other


def test_to_begin_with_snapshots_publishes_a_version():
    names = []
    for capacity in (None, Capacity.snap_start()):
        stack = make_stack()
        infer(stack, capacity=capacity)
        names += resources(stack, "AWS::Lambda::Version")
    assert len(set(names)) == 2


@pytest.mark.parametrize("python", ["3.12", "3.13", "3.14"])
def test_snapshots_of_every_python_that_has_them(stack, python):
    infer(stack, capacity=Capacity.snap_start(), platform=LambdaPlatform(python, "x86_64"))
    assert only(stack, "AWS::Lambda::Function")["SnapStart"] == {"ApplyOn": "PublishedVersions"}


def test_snapshots_of_an_image(stack):
    image = lambda_.Code.from_ecr_image(ecr.Repository.from_repository_name(stack, "Images", "images"))
    handler, runtime = lambda_.Handler.FROM_IMAGE, lambda_.Runtime.FROM_IMAGE
    stage(stack, capacity=Capacity.snap_start(), code=image, handler=handler, runtime=runtime)
    assert only(stack, "AWS::Lambda::Function")["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert not list(violations_of(Template.from_stack(stack).to_json()))


def test_snapshots_of_an_old_python_fail(stack):
    message = r"Stack/Stage/Function must be Python 3\.12 or newer with SnapStart, got python3\.11"
    with pytest.raises(PropError, match=message):
        stage(stack, capacity=Capacity.snap_start(), runtime=lambda_.Runtime.PYTHON_3_11)


def test_snapshots_of_much_ephemeral_storage_fail(stack):
    stage(stack, "Enough", capacity=Capacity.snap_start(), ephemeral_mib=512)
    stage(stack, "OnDemand", ephemeral_mib=513)
    message = r"ephemeral storage must be at most 512 MiB with SnapStart, got 513 MiB for the model; deliver it"
    with pytest.raises(PropError, match=message):
        stage(stack, capacity=Capacity.snap_start(), ephemeral_mib=513)


def test_the_local_target_makes_no_snapshots_and_scales_and_warms_nothing():
    stack = make_stack(**{"cdk-inference:accelerator": "cpu"})
    schedule = CapacitySchedule(min_capacity=2, hour=8)
    stage(stack, "Snapshots", capacity=Capacity.snap_start(), runtime=lambda_.Runtime.PYTHON_3_11)
    stage(stack, "Warmed", capacity=Capacity.keep_warm(2))
    stage(stack, "Provisioned", capacity=Capacity.provisioned(1, schedules=[schedule]))
    assert not [f for f in resources(stack, "AWS::Lambda::Function").values() if "SnapStart" in f["Properties"]]
    for kind in ("Events::Rule", "Lambda::EventInvokeConfig", "ApplicationAutoScaling::ScalableTarget"):
        assert not resources(stack, f"AWS::{kind}")
    for alias in resources(stack, "AWS::Lambda::Alias").values():
        assert "ProvisionedConcurrencyConfig" not in alias["Properties"]


@pytest.mark.parametrize(
    ("changed", "property", "value", "problem"),
    [
        ("Function", "Runtime", "python3.11", "SnapStart with python3.11"),
        ("Function", "EphemeralStorage", {"Size": 1024}, "SnapStart with 1024 MiB of ephemeral storage"),
        (
            "Function",
            "FileSystemConfigs",
            [
                {
                    "Arn": "arn:aws:elasticfilesystem:eu-west-1:111111111111:access-point/fsap-0123456789abcdef0",
                    "LocalMountPath": "/mnt/x",
                }
            ],
            "SnapStart with a file system",
        ),
        (
            "Function",
            "CapacityProviderConfig",
            {
                "LambdaManagedInstancesCapacityProviderConfig": {
                    "CapacityProviderArn": "arn:aws:lambda:eu-west-1:111111111111:capacity-provider:mine"
                }
            },
            "SnapStart of a function on managed instances",
        ),
        (
            "Alias",
            "ProvisionedConcurrencyConfig",
            {"ProvisionedConcurrentExecutions": 1},
            "provisioned concurrency of a function with SnapStart",
        ),
    ],
    ids=["old-python", "storage", "file-system", "instances", "provisioned"],
)
def test_an_escape_hatch_to_what_has_no_snapshots_fails(tmp_path, changed, property, value, problem):
    app = cdk.App(outdir=str(tmp_path), context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(app, "Stack")
    made = stage(stack, capacity=Capacity.snap_start())
    resource = {"Function": made.function, "Alias": made.target}[changed].node.default_child
    resource.add_property_override(property, value)
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    plugins = json.loads((tmp_path / "validation-report.json").read_text())["pluginReports"]
    ours = [
        each["description"] for plugin in plugins for each in plugin["violations"] if each["ruleName"] == "snap-start"
    ]
    assert ours == [f"{stack.get_logical_id(resource)}: {problem}"]


def test_functions_without_snapshots_are_not_checked(stack):
    stage(stack, "Large", ephemeral_mib=1024)
    stage(stack, "Provisioned", capacity=Capacity.provisioned(1))
    stage(stack, "Snapshots", capacity=Capacity.snap_start())
    assert not list(violations_of(Template.from_stack(stack).to_json()))


# --- provisioned by the clock, or by the load ---


def scaled(stack):
    target = only(stack, "AWS::ApplicationAutoScaling::ScalableTarget")
    policies = [each["Properties"] for each in resources(stack, "AWS::ApplicationAutoScaling::ScalingPolicy").values()]
    return target, policies


def test_environments_by_the_clock(stack):
    capacity = Capacity.provisioned(
        1,
        schedules=[
            CapacitySchedule(min_capacity=5, hour=8, week_day="MON-FRI", time_zone="Europe/Berlin"),
            CapacitySchedule(min_capacity=0, hour=18, minute=30),
        ],
    )
    infer(stack, capacity=capacity)
    target, policies = scaled(stack)
    assert not policies
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 5)
    assert target["ScalableDimension"] == "lambda:function:ProvisionedConcurrency"
    assert json.dumps(target["ResourceId"]).endswith('":live"]]}')
    # So many they are: nothing is between the two numbers.
    assert target["ScheduledActions"] == [
        {
            "ScalableTargetAction": {"MinCapacity": 5, "MaxCapacity": 5},
            "Schedule": "cron(0 8 ? * MON-FRI *)",
            "ScheduledActionName": "Schedule0",
            "Timezone": "Europe/Berlin",
        },
        {
            "ScalableTargetAction": {"MinCapacity": 0, "MaxCapacity": 0},
            "Schedule": "cron(30 18 * * ? *)",
            "ScheduledActionName": "Schedule1",
            "Timezone": "Etc/UTC",
        },
    ]
    assert only(stack, "AWS::Lambda::Alias")["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 1}


def test_environments_by_the_load(stack):
    infer(stack, capacity=Capacity.provisioned(2, target_utilization=0.7, max_capacity=20))
    target, (policy,) = scaled(stack)
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 20)
    assert "ScheduledActions" not in target
    assert policy["TargetTrackingScalingPolicyConfiguration"] == {
        "PredefinedMetricSpecification": {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"},
        "TargetValue": 0.7,
    }


def test_a_schedule_says_how_many_there_are_at_least_where_the_load_decides(stack):
    schedules = [
        CapacitySchedule(min_capacity=5, hour=8),
        CapacitySchedule(min_capacity=1, hour=20, max_capacity=3),
    ]
    infer(stack, capacity=Capacity.provisioned(2, schedules=schedules, target_utilization=0.5, max_capacity=9))
    target, policies = scaled(stack)
    assert len(policies) == 1
    actions = [each["ScalableTargetAction"] for each in target["ScheduledActions"]]
    assert actions == [{"MinCapacity": 5, "MaxCapacity": 9}, {"MinCapacity": 1, "MaxCapacity": 3}]


def test_the_maximum_may_be_known_at_deployment_only(stack):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    infer(stack, capacity=Capacity.provisioned(2, target_utilization=0.7, max_capacity=number))
    assert scaled(stack)[0]["MaxCapacity"] == {"Ref": "Number"}


@pytest.mark.parametrize("load", [{}, {"target_utilization": 0.7}])
def test_schedules_of_a_number_that_is_known_at_deployment_only(stack, load):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    if load:
        load = {**load, "max_capacity": number}
    schedules = [CapacitySchedule(min_capacity=5, hour=8)]
    infer(stack, capacity=Capacity.provisioned(2 if load else number, schedules=schedules, **load))
    target = scaled(stack)[0]
    assert target["MaxCapacity"] == {"Ref": "Number"}
    (action,) = target["ScheduledActions"]
    most = {"Ref": "Number"} if load else 5
    assert action["ScalableTargetAction"] == {"MinCapacity": 5, "MaxCapacity": most}


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"min_capacity": 1.5}, r"min_capacity must be an int, got float 1\.5"),
        ({"min_capacity": "2"}, "min_capacity must be an int, got str '2'"),
        (
            {"min_capacity": 0, "target_utilization": 0.7, "max_capacity": 3},
            "at least 1, got 0; .* nothing happens",
        ),
        ({"target_utilization": 0.7}, "target_utilization needs max_capacity, got none"),
        (
            {"max_capacity": 3},
            r"max_capacity needs target_utilization, got max_capacity=3 without it; set it \(for example 0\.7\)",
        ),
        (
            {"schedules": [CapacitySchedule(min_capacity=1, hour=8, max_capacity=4)]},
            "max_capacity needs target_utilization, got max_capacity=4",
        ),
        (
            {"target_utilization": 0.05, "max_capacity": 3},
            r"target_utilization must be 0\.1 to 0\.9 of the environments, got 0\.05",
        ),
        (
            {"target_utilization": 70, "max_capacity": 3},
            "target_utilization must be 0.1 to 0.9 of the environments, got 70",
        ),
        (
            {"min_capacity": 4, "target_utilization": 0.7, "max_capacity": 3},
            "min_capacity must be at most max_capacity, 3, got 4; raise max_capacity",
        ),
        ({"target_utilization": 0.7, "max_capacity": 2.5}, r"max_capacity must be an int, got float 2\.5"),
        (
            {
                "target_utilization": 0.7,
                "max_capacity": 3,
                "schedules": [CapacitySchedule(min_capacity=4, hour=8)],
            },
            "min_capacity of a schedule must be at most max_capacity, 3, got 4",
        ),
    ],
)
def test_numbers_that_contradict_each_other_fail(props, message):
    with pytest.raises(PropError, match=message):
        Capacity.provisioned(**{"min_capacity": 1, **props})


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"hour": 24}, "hour of a schedule must be 0 to 23, got 24"),
        ({"hour": "8"}, "hour must be an int, got str '8'"),
        ({"minute": 7.5}, "minute must be an int, got float 7.5"),
        ({"min_capacity": "many"}, "min_capacity must be an int, got str 'many'"),
        ({"hour": -1}, "hour of a schedule must be 0 to 23, got -1"),
        ({"minute": 60}, "minute of a schedule must be 0 to 59, got 60"),
        ({"min_capacity": -1}, "min_capacity of a schedule must be at least 0, got -1"),
        ({"week_day": "Monday"}, "week_day of a schedule must be like 'MON-FRI' or 'SAT,SUN', got 'Monday'"),
        ({"week_day": "MON,"}, "got 'MON,'"),
        (
            {"time_zone": "Europe/Atlantis"},
            "time_zone of a schedule must be a name of the IANA database, got 'Europe/Atlantis'",
        ),
        ({"time_zone": "/etc/passwd"}, "got '/etc/passwd'"),
        ({"time_zone": "Europe"}, "got 'Europe'"),
        ({"min_capacity": 5, "max_capacity": 4}, "min_capacity of a schedule must be at most max_capacity, 4, got 5"),
    ],
)
def test_a_schedule_that_cannot_be_fails(props, message):
    with pytest.raises(PropError, match=re.escape(message)):
        CapacitySchedule(**{"min_capacity": 1, "hour": 8, **props})


DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


@given(
    st.integers(0, 23),
    st.integers(0, 59),
    st.none() | st.lists(st.sampled_from(DAYS), min_size=1).map(",".join) | st.sampled_from(["MON-FRI", "SAT-SUN,WED"]),
)
def test_a_schedule_is_a_cron_expression_of_six_fields(hour, minute, week_day):
    expression = CapacitySchedule(min_capacity=1, hour=hour, minute=minute, week_day=week_day).expression
    fields = re.fullmatch(r"cron\((.*)\)", expression)[1].split(" ")
    assert fields[:2] == [str(minute), str(hour)]
    assert fields[3:] == ["*", week_day or "?", "*"]
    # One of the two days must be a question mark.
    assert fields[2] == ("?" if week_day else "*")


def test_the_time_of_a_schedule_is_an_int_or_a_token(stack):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    assert CapacitySchedule(min_capacity=1, hour=8).expression == "cron(0 8 * * ? *)"
    expression = CapacitySchedule(min_capacity=1, hour=number).expression
    assert stack.resolve(expression) == {"Fn::Join": ["", ["cron(0 ", {"Ref": "Number"}, " * * ? *)"]]}


def test_less_is_not_reserved_than_may_be_provisioned(stack):
    schedules = [CapacitySchedule(min_capacity=6, hour=8)]
    infer(stack, "Enough", capacity=Capacity.provisioned(1, schedules=schedules), reserved_concurrent_executions=6)
    for capacity in (
        Capacity.provisioned(1, schedules=schedules),
        Capacity.provisioned(1, target_utilization=0.7, max_capacity=6),
    ):
        with pytest.raises(PropError, match=r"must be at least 6, .* provisioned, got 5"):
            infer(stack, "Less", capacity=capacity, reserved_concurrent_executions=5)
        stack.node.try_remove_child("Less")


# --- kept warm ---


def rules(stack):
    return [rule["Properties"] for rule in resources(stack, "AWS::Events::Rule").values()]


def test_what_is_invoked_is_kept_warm(stack):
    target = invoked(stack, infer(stack, capacity=Capacity.keep_warm()))
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}
    (rule,) = rules(stack)
    assert rule["ScheduleExpression"] == "rate(5 minutes)"
    (event,) = rule["Targets"]
    assert event["Arn"] == target
    assert json.loads(event["Input"]) == {"cdk-inference": "warm"}
    Annotations.from_stack(stack).has_no_warning("*", Match.any_value())


def test_several_environments_are_warmed_at_a_time(stack):
    infer(stack, capacity=Capacity.keep_warm(7, every=cdk.Duration.minutes(1)))
    assert [rule["ScheduleExpression"] for rule in rules(stack)] == ["rate(1 minute)"] * 2
    targets = [target for rule in rules(stack) for target in rule["Targets"]]
    assert len(targets) == 7
    assert max(len(rule["Targets"]) for rule in rules(stack)) == 5  # AWS's limit
    for target in targets:
        assert json.loads(target["Input"]) == {"cdk-inference": "warm", "hold_ms": HOLD_MS}
    assert HOLD_MS < MAX_HOLD_MS


def test_the_event_of_the_rule_is_one_that_handlers_answer(stack):
    infer(stack, capacity=Capacity.keep_warm(2))
    event = json.loads(rules(stack)[0]["Targets"][0]["Input"])
    assert answers_warming(lambda *_: "handled")({**event, "hold_ms": 1}, None) == {"warm": True}


def test_a_warming_event_that_fails_is_not_tried_again(stack):
    infer(stack, capacity=Capacity.keep_warm(2))
    for target in rules(stack)[0]["Targets"]:
        assert target["RetryPolicy"] == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
        assert "DeadLetterConfig" not in target
    config = only(stack, "AWS::Lambda::EventInvokeConfig")
    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 60)
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert config["Qualifier"] == {"Fn::Select": [7, {"Fn::Split": [":", {"Ref": alias}]}]}  # the last part of its ARN


def test_nobody_but_the_rules_may_invoke_for_warming(stack):
    target = invoked(stack, infer(stack, capacity=Capacity.keep_warm(6)))
    permissions = [each["Properties"] for each in resources(stack, "AWS::Lambda::Permission").values()]
    assert sorted(each["SourceArn"]["Fn::GetAtt"][0] for each in permissions) == sorted(
        resources(stack, "AWS::Events::Rule")
    )
    for permission in permissions:
        assert permission["FunctionName"] == target
        assert (permission["Principal"], permission["Action"]) == ("events.amazonaws.com", "lambda:InvokeFunction")


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"environments": 0}, "environments of Capacity.keep_warm must be 1 to 50, got 0"),
        ({"environments": 51}, r"got 51; use Capacity\.provisioned\(\)"),
        ({"environments": 1.5}, r"environments must be an int, got float 1\.5"),
        ({"environments": cdk.Token.as_number({"Ref": "Number"})}, "must be known at synth, got a token"),
        ({"environments": "3"}, "environments must be an int, got str '3'; use 3"),
        ({"every": cdk.Duration.seconds(90)}, "every must be in whole minutes, .* EventBridge are, got 90 s"),
        ({"every": cdk.Duration.seconds(30)}, "every must be 60 to 3,600 seconds, got 30"),
        ({"every": cdk.Duration.hours(2)}, "every must be .*, got 7200"),
    ],
)
def test_what_cannot_be_kept_warm_fails(props, message):
    with pytest.raises(PropError, match=message):
        Capacity.keep_warm(**props)


def test_how_often_may_be_known_at_deployment_only(stack):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    infer(stack, capacity=Capacity.keep_warm(every=cdk.Duration.minutes(number)))
    (rule,) = rules(stack)
    assert "Number" in str(rule["ScheduleExpression"])


def test_less_is_not_reserved_than_is_kept_warm(stack):
    with pytest.raises(PropError, match=r"must be at least 2, .* kept warm, got 1; reserve more, or keep fewer"):
        infer(stack, capacity=Capacity.keep_warm(2), reserved_concurrent_executions=1)


# --- of a pipeline ---


def with_snapshots(stack):
    return {
        name
        for name, function in resources(stack, "AWS::Lambda::Function").items()
        if "SnapStart" in function["Properties"]
    }


def ids(stack, *stages):
    return {stack.get_logical_id(each.function.node.default_child) for each in stages}


def test_a_pipelines_capacity_is_that_of_what_is_around_the_model(stack, pipeline):
    photos = pipeline(capacity=Capacity.snap_start())
    assert with_snapshots(stack) == ids(stack, photos.stages.preprocess, photos.stages.postprocess)


def test_the_model_has_a_capacity_of_its_own(stack, pipeline):
    photos = pipeline(inference=Inference.cpu(capacity=Capacity.snap_start()), capacity=Capacity.keep_warm())
    assert with_snapshots(stack) == ids(stack, photos.stages.inference)
    assert len(rules(stack)) == 3  # and that of the trigger


def test_what_is_behind_a_gpu_has_the_capacity_too(stack, pipeline):
    photos = pipeline(inference=Inference.gpu(), capacity=Capacity.snap_start())
    assert with_snapshots(stack) == ids(stack, photos.stages.preprocess, photos.stages.postprocess)


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, "preprocess_memory_size must be 2048 .* instance, where preprocessing runs, got 1769"),
        (
            {"execution": Execution.staged(preprocess_memory_size=2048)},
            "postprocess_memory_size must be 2048 .* instance, where postprocessing runs, got 1024",
        ),
        ({"execution": Execution.fused()}, "memory_size must be 2048 .* instance, where Score runs, got 1769"),
    ],
)
def test_a_pipeline_with_less_memory_than_an_instance_gives_fails(pipeline, props, message):
    with pytest.raises(PropError, match=message):
        pipeline(capacity=Capacity.managed_instances(), **props)
