"""The claims of docs/operate/security.md hold: encryption, networks, and what stays after the stack is deleted."""

from __future__ import annotations

import json
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk.assertions import Annotations, Match, Template
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Capacity,
    Execution,
    Inference,
    InferenceNetwork,
    InferencePipeline,
    InferenceWorkflow,
    ModelArtifact,
    Preprocess,
    PropError,
    Route,
    Routing,
    SageMakerAsync,
    StagedRoute,
    WorkBucket,
)
from cdk_inference.model import Float16

CONTEXT = "kms:EncryptionContext:aws:states:stateMachineArn"


def statements_of(stack, role):
    """Return the statements of all policies of a role."""
    name = {"Ref": stack.get_logical_id(role.node.default_child)}
    return [
        statement
        for policy in resources(stack, "AWS::IAM::Policy").values()
        if name in policy["Properties"]["Roles"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
    ]


def on_key(statements, key):
    """Return which actions on the key are allowed in which contexts."""
    return {
        (action, json.dumps(statement.get("Condition", {}), sort_keys=True))
        for statement in statements
        if statement["Resource"] == key
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }


def test_a_retained_bucket_keeps_the_policy_that_refuses_requests_without_tls(stack, pipeline):
    pipeline()
    buckets, policies = resources(stack, "AWS::S3::Bucket"), resources(stack, "AWS::S3::BucketPolicy")
    assert len(policies) == len(buckets) == 2
    for policy in policies.values():
        bucket = buckets[policy["Properties"]["Bucket"]["Ref"]]
        assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
        for name in ("DeletionPolicy", "UpdateReplacePolicy"):
            assert policy[name] == bucket[name]


def test_a_bucket_that_is_destroyed_takes_its_policy_along():
    stack = make_stack(**{"cdk-inference:allow-destroy": "true"})
    WorkBucket(stack, "Work", removal_policy=cdk.RemovalPolicy.DESTROY)
    (policy,) = resources(stack, "AWS::S3::BucketPolicy").values()
    assert policy["DeletionPolicy"] == "Delete"


def gpu_pipeline(stack, **props):
    model = ModelArtifact(stack, "Half", recipe=RECIPE, precision=Float16())
    gpu = Inference.gpu()
    return InferencePipeline(
        stack, "Photos", model=model, preprocess=Preprocess.image(size=224), inference=gpu, **props
    )


@pytest.mark.parametrize("own", [False, True], ids=["our-key", "own-key"])
def test_state_machines_encrypt_their_executions_with_the_key(stack, own):
    given = {"encryption_key": kms.Key(stack, "Mine")} if own else {}
    made = gpu_pipeline(stack, **given)
    (name,) = resources(stack, "AWS::KMS::Key")
    key = {"Fn::GetAtt": [name, "Arn"]}
    machines = resources(stack, "AWS::StepFunctions::StateMachine")
    assert {m["Properties"]["StateMachineType"] for m in machines.values()} == {"EXPRESS", "STANDARD"}
    for machine in machines.values():
        assert machine["Properties"]["EncryptionConfiguration"] == {
            "Type": "CUSTOMER_MANAGED_KMS_KEY",
            "KmsKeyId": key,
            "KmsDataKeyReusePeriodSeconds": 900,
        }
    route = made.routes["main"]
    for workflow in (made.workflow, route.gpu_workflow):
        machine = workflow.state_machine
        its_own = json.dumps({"StringEquals": {CONTEXT: stack.resolve(machine.state_machine_arn)}})
        allowed = on_key(statements_of(stack, machine.role), key)
        assert {("kms:Decrypt", its_own), ("kms:GenerateDataKey", its_own)} <= allowed
        delivered = {action for action, condition in allowed if "kms:EncryptionContext:SourceArn" in condition}
        assert delivered == {"kms:GenerateDataKey"}


def test_who_starts_a_gpu_execution_may_use_the_key_for_it_and_for_no_other(stack):
    made = gpu_pipeline(stack)
    (name,) = resources(stack, "AWS::KMS::Key")
    express = made.workflow.state_machine
    contexts = {
        json.loads(condition)["StringEquals"][CONTEXT]["Ref"]
        for _, condition in on_key(statements_of(stack, express.role), {"Fn::GetAtt": [name, "Arn"]})
        if CONTEXT in condition
    }
    standard = made.routes["main"].gpu_workflow.state_machine
    assert contexts == {stack.get_logical_id(m.node.default_child) for m in (express, standard)}


def test_who_runs_a_batch_may_use_the_key_for_it(stack, pipeline):
    made = pipeline()
    runner = iam.Role(stack, "Runner", assumed_by=iam.AccountRootPrincipal())
    made.workflow.grant_start_sync_execution(runner)
    (name,) = resources(stack, "AWS::KMS::Key")
    arn = {"Ref": stack.get_logical_id(made.workflow.state_machine.node.default_child)}
    only = json.dumps({"StringEquals": {CONTEXT: arn}})
    assert on_key(statements_of(stack, runner), {"Fn::GetAtt": [name, "Arn"]}) == {
        ("kms:Decrypt", only),
        ("kms:GenerateDataKey", only),
    }


def test_the_key_lets_only_deliveries_of_this_accounts_logs_decrypt(stack, pipeline):
    pipeline()
    (key,) = resources(stack, "AWS::KMS::Key").values()
    (statement,) = [
        s
        for s in key["Properties"]["KeyPolicy"]["Statement"]
        if s["Principal"] == {"Service": "delivery.logs.amazonaws.com"}
    ]
    assert statement["Action"] == "kms:Decrypt"
    text = json.dumps(statement["Condition"]["StringEquals"]["kms:EncryptionContext:SourceArn"])
    assert "AWS::AccountId" in text
    assert text.endswith('":*"]]}')


def test_an_imported_key_warns_of_what_log_delivery_needs(stack, pipeline):
    pipeline(encryption_key=kms.Key.from_key_arn(stack, "Mine", "arn:aws:kms:eu-west-1:111122223333:key/1234"))
    for service in ("logs.<region>", "delivery.logs"):
        Annotations.from_stack(stack).has_warning("/Stack/Photos", Match.string_like_regexp(f"allow {service}"))


def test_a_workflow_without_a_key_leaves_encryption_to_aws(stack, pipeline):
    made = pipeline()
    workflow = InferenceWorkflow(
        stack,
        "Alone",
        routes=[
            StagedRoute(
                preprocess=made.stages.preprocess, inference=made.stages.inference, postprocess=made.stages.postprocess
            )
        ],
    )
    alone = resources(stack, "AWS::StepFunctions::StateMachine")[
        stack.get_logical_id(workflow.state_machine.node.default_child)
    ]
    assert "EncryptionConfiguration" not in alone["Properties"]


# --- networks ---


def placed(stack):
    """Return the VPC settings of all functions, by their logical ids."""
    functions = resources(stack, "AWS::Lambda::Function")
    return {name: function["Properties"].get("VpcConfig") for name, function in functions.items()}


def refs(stack, constructs):
    return [{"Ref": stack.get_logical_id(construct.node.default_child)} for construct in constructs]


@pytest.mark.parametrize(
    ("execution", "functions"), [(Execution.staged(), 7), (Execution.fused(), 3)], ids=["stages", "fused"]
)
def test_every_function_is_in_the_vpc_of_its_pipeline(stack, model, execution, functions):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    decided = Routing.by_function(
        f"{Path(__file__).parents[1] / 'routing' / 'deciding.py'}:decide",
        {
            "left": Route("left", model=model, preprocess=Preprocess.image(size=224)),
            "right": Route("right", model=model, preprocess=Preprocess.image(size=224)),
        },
    )
    InferencePipeline(stack, "Photos", routing=decided, execution=execution, vpc=vpc)
    found = placed(stack)
    assert len(found) == functions
    groups = resources(stack, "AWS::EC2::SecurityGroup")
    for config in found.values():
        assert config["SubnetIds"] == refs(stack, vpc.private_subnets)
        ((name, _),) = (each["Fn::GetAtt"] for each in config["SecurityGroupIds"])
        group = groups[name]["Properties"]
        assert "SecurityGroupIngress" not in group
        assert [(rule["IpProtocol"], rule["ToPort"]) for rule in group["SecurityGroupEgress"]] == [("tcp", 443)]


def test_what_is_added_to_a_pipeline_is_in_its_vpc(stack, pipeline):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    made = pipeline(vpc=vpc)
    made.add_backfill()
    made.add_rest_api().add_uploads({"image/png": ".png"})
    made.add_drift_monitor()
    found = placed(stack)
    assert len(found) == 6
    assert [name for name, config in found.items() if config is None] == []


def test_subnets_and_security_groups_are_those_that_are_given(stack, pipeline):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    group = ec2.SecurityGroup(stack, "Group", vpc=vpc)
    chosen = ec2.SubnetSelection(subnets=[vpc.private_subnets[1]])
    pipeline(vpc=vpc, vpc_subnets=chosen, security_groups=[group])
    for config in placed(stack).values():
        assert config["SubnetIds"] == refs(stack, vpc.private_subnets[1:])
        assert config["SecurityGroupIds"] == [stack.resolve(group.security_group_id)]
    assert len(resources(stack, "AWS::EC2::SecurityGroup")) == 1


def test_lambda_may_connect_a_function_to_the_vpc_and_the_function_itself_may_not(stack, pipeline):
    made = pipeline(vpc=ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1))
    for stage in (made.stages.preprocess, made.stages.inference, made.stages.postprocess):
        (statement,) = [s for s in statements_of(stack, stage.role) if "ec2:CreateNetworkInterface" in s["Action"]]
        assert statement["Condition"] == {"Null": {"lambda:SourceFunctionArn": "true"}}
        dependencies = resources(stack, "AWS::Lambda::Function")[
            stack.get_logical_id(stage.function.node.default_child)
        ]["DependsOn"]
        # Lambda checks the permission when it makes the function.
        assert any("DefaultPolicy" in name for name in dependencies)


def test_without_a_vpc_nothing_of_one_is_in_the_template(stack, pipeline):
    pipeline()
    assert set(map(str, placed(stack).values())) == {"None"}
    assert "ec2:" not in json.dumps(Template.from_stack(stack).to_json())


@pytest.mark.parametrize("prop", ["vpc_subnets", "security_groups"])
def test_subnets_or_security_groups_without_a_vpc_fail(stack, pipeline, prop):
    value = {"vpc_subnets": ec2.SubnetSelection(), "security_groups": []}[prop]
    with pytest.raises(PropError, match=f"vpc must be set where {prop} is, got None; pass the VPC, or remove {prop}"):
        pipeline(**{prop: value})


def on_instances(stack, **props):
    capacity = Capacity.managed_instances()
    return InferencePipeline(
        stack,
        "Photos",
        model=ModelArtifact(stack, "Instances", recipe=RECIPE),
        preprocess=Preprocess.image(size=224),
        capacity=capacity,
        inference=Inference.cpu(capacity=capacity, memory_size=2048),
        execution=Execution.staged(preprocess_memory_size=2048, postprocess_memory_size=2048),
        **props,
    )


def test_the_instances_of_a_pipeline_share_one_network(stack):
    on_instances(stack)
    assert len(resources(stack, "AWS::Lambda::CapacityProvider")) == 3
    assert len(resources(stack, "AWS::EC2::VPC")) == 1
    kinds = [e["Properties"]["VpcEndpointType"] for e in resources(stack, "AWS::EC2::VPCEndpoint").values()]
    assert sorted(kinds) == ["Gateway", "Gateway", "Interface", "Interface"]


def test_logs_of_instances_are_kept_and_encrypted_as_the_pipelines_are():
    stack = make_stack(**{"cdk-inference:allow-destroy": "true"})
    on_instances(stack, log_retention=logs.RetentionDays.ONE_YEAR, removal_policy=cdk.RemovalPolicy.DESTROY)
    (name,) = resources(stack, "AWS::KMS::Key")
    groups = resources(stack, "AWS::Logs::LogGroup")
    assert len(groups) == 9  # three functions, their three providers, the network, the workflow, the pipe
    for group in groups.values():
        assert group["Properties"]["KmsKeyId"] == {"Fn::GetAtt": [name, "Arn"]}
        assert group["DeletionPolicy"] == "Delete"
    retentions = [group["Properties"]["RetentionInDays"] for group in groups.values()]
    assert retentions == [365] * 9


def test_instances_are_in_the_vpc_of_their_pipeline_and_their_functions_have_none(stack):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    group = ec2.SecurityGroup(stack, "Group", vpc=vpc)
    on_instances(stack, vpc=vpc, security_groups=[group])
    assert len(resources(stack, "AWS::EC2::VPC")) == 1
    for provider in resources(stack, "AWS::Lambda::CapacityProvider").values():
        config = provider["Properties"]["VpcConfig"]
        assert config["SubnetIds"] == refs(stack, vpc.private_subnets)
        assert config["SecurityGroupIds"] == [stack.resolve(group.security_group_id)]
    assert set(map(str, placed(stack).values())) == {"None"}


def test_a_gpu_is_in_the_vpc_of_its_pipeline(stack):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    gpu_pipeline(stack, vpc=vpc)
    (provider,) = resources(stack, "AWS::Lambda::CapacityProvider").values()
    assert provider["Properties"]["VpcConfig"]["SubnetIds"] == refs(stack, vpc.private_subnets)
    configs = [config for name, config in placed(stack).items() if "OnGpu" not in name]
    assert len(configs) == 2
    assert None not in configs


def test_a_model_of_sagemaker_is_in_the_vpc_of_its_pipeline(stack):
    vpc = ec2.Vpc(stack, "Mine", max_azs=2, nat_gateways=1)
    group = ec2.SecurityGroup(stack, "Group", vpc=vpc)
    inference = Inference.gpu(backend=SageMakerAsync())
    model = ModelArtifact(stack, "Half", recipe=RECIPE, precision=Float16())
    made = InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        inference=inference,
        vpc=vpc,
        security_groups=[group],
    )
    (served,) = resources(stack, "AWS::SageMaker::Model").values()
    assert served["Properties"]["VpcConfig"] == {
        "Subnets": refs(stack, vpc.private_subnets),
        "SecurityGroupIds": [stack.resolve(group.security_group_id)],
    }
    actions = {a for s in statements_of(stack, made.stages.inference.stage.endpoint.role) for a in s["Action"]}
    assert "ec2:CreateNetworkInterfacePermission" in actions
    assert None not in placed(stack).values()


def test_our_network_records_its_flows_and_the_role_can_do_nothing_else(stack):
    key = kms.Key(stack, "Mine")
    InferenceNetwork(stack, "Network", encryption_key=key, log_retention=logs.RetentionDays.ONE_YEAR)
    ((name, group),) = resources(stack, "AWS::Logs::LogGroup").items()
    assert group["Properties"]["RetentionInDays"] == 365
    assert group["Properties"]["KmsKeyId"] == stack.resolve(key.key_arn)
    (flows,) = resources(stack, "AWS::EC2::FlowLog").values()
    (vpc,) = resources(stack, "AWS::EC2::VPC")
    arn = {"Fn::GetAtt": [name, "Arn"]}
    assert flows["Properties"]["ResourceId"] == {"Ref": vpc}
    assert flows["Properties"]["TrafficType"] == "ALL"
    assert flows["Properties"]["LogDestination"] == arn
    (policy,) = resources(stack, "AWS::IAM::Policy").values()
    assert [s["Resource"] for s in policy["Properties"]["PolicyDocument"]["Statement"]] == [arn]
    (role,) = resources(stack, "AWS::IAM::Role").values()
    (trust,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


@pytest.mark.parametrize("closed", [False, True])
def test_cdk_closes_the_default_security_group_if_asked(stack, closed):
    InferenceNetwork(stack, "Network", restrict_default_security_group=closed)
    assert len(resources(stack, "Custom::VpcRestrictDefaultSG")) == closed


def test_each_gpu_of_a_pipeline_is_in_its_one_network(stack):
    def route(name):
        model = ModelArtifact(stack, name, recipe=RECIPE, precision=Float16())
        return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=Inference.gpu())

    InferencePipeline(stack, "Photos", routing=Routing.by_tag("class", {"one": route("one")}, otherwise=route("two")))
    assert len(resources(stack, "AWS::Lambda::CapacityProvider")) == 2
    assert len(resources(stack, "AWS::EC2::VPC")) == 1


# --- trust ---


def test_state_machines_pipes_and_flow_logs_act_for_this_account_only(stack):
    gpu_pipeline(stack)
    trusted = {}
    for role in resources(stack, "AWS::IAM::Role").values():
        (statement,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        conditions = statement.get("Condition", {})
        accounts = conditions.get("StringEquals", {}).get("aws:SourceAccount")
        trusted.setdefault(statement["Principal"]["Service"], []).append((accounts, "ArnLike" in conditions))
    ours = {"Ref": "AWS::AccountId"}
    assert trusted.pop("states.amazonaws.com") == [(ours, True)] * 2
    assert trusted.pop("pipes.amazonaws.com") == [(ours, True)]
    assert trusted.pop("vpc-flow-logs.amazonaws.com") == [(ours, True)]
    assert set(trusted) == {"lambda.amazonaws.com"}  # AWS does not document that Lambda sends its account
