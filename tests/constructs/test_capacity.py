"""Where environments come from: on demand, provisioned, or instances without a GPU."""

from __future__ import annotations

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_

from cdk_inference import CpuInference, LambdaPlatform, ModelArtifact, PropError, WorkBucket
from cdk_inference.capacity import Capacity
from cdk_inference.managed_capacity import CpuCapacity

from .conftest import RECIPE, make_stack, resources


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


def test_on_demand_a_version_is_invoked(stack):
    target = invoked(stack, infer(stack))
    (version,) = resources(stack, "AWS::Lambda::Version")
    assert target == {"Ref": version}
    assert not resources(stack, "AWS::Lambda::Alias")


def test_provisioned_concurrency_is_that_of_the_alias_that_is_invoked(stack):
    target = invoked(stack, infer(stack, capacity=Capacity.provisioned(3)))
    (alias,) = resources(stack, "AWS::Lambda::Alias")
    assert target == {"Ref": alias}
    assert only(stack, "AWS::Lambda::Alias")["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 3}


def test_no_provisioned_environment_fails():
    with pytest.raises(PropError, match="environments is 0; provisioned concurrency is at least 1"):
        Capacity.provisioned(0)


def test_less_is_not_reserved_than_is_provisioned(stack):
    infer(stack, "Enough", capacity=Capacity.provisioned(3), reserved_concurrent_executions=3)
    message = r"reserved_concurrent_executions is 2, and 3 environments are provisioned; reserve at least 3"
    with pytest.raises(PropError, match=message):
        infer(stack, capacity=Capacity.provisioned(3), reserved_concurrent_executions=2)


def test_what_is_known_at_deployment_only_may_be_anything(stack):
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    infer(stack, capacity=Capacity.provisioned(number), reserved_concurrent_executions=1)
    config = only(stack, "AWS::Lambda::Alias")["ProvisionedConcurrencyConfig"]
    assert config == {"ProvisionedConcurrentExecutions": {"Ref": "Number"}}


def test_nothing_is_reserved_on_managed_instances(stack):
    with pytest.raises(PropError, match="functions on managed instances do not have; leave it out: max_environments"):
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
    with pytest.raises(PropError, match="memory_size is 1769 MiB; a managed instance takes 2048 to 32768"):
        infer(stack, capacity=Capacity.managed_instances())


def test_a_capacity_has_a_vpc_already(stack):
    capacity = CpuCapacity(stack, "Instances")
    with pytest.raises(PropError, match="capacity and vpc are both set"):
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
    with pytest.raises(PropError, match=r"Stack/Old runs python3\.12; managed instances have Python 3\.13 and newer"):
        CpuCapacity(stack, "Instances").add_function(function)


def test_a_region_without_instances_fails():
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(app, "Stack", env=cdk.Environment(account="111111111111", region="sa-east-1"))
    with pytest.raises(PropError, match="the stack is in sa-east-1; managed instances are known to be in"):
        CpuCapacity(stack, "Instances")
