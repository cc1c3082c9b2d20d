"""What docs/security.md claims: encryption, networks, and what stays after the stack is deleted."""

from __future__ import annotations

import json

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Annotations, Match

from cdk_inference import Inference, InferencePipeline, InferenceWorkflow, ModelArtifact, Preprocess, WorkBucket
from cdk_inference.model import Float16
from cdk_inference.workflow import Leg

from .conftest import RECIPE, make_stack, resources

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
        stack, "Alone", legs=[Leg(preprocess=made.preprocess, inference=made.inference, postprocess=made.postprocess)]
    )
    alone = resources(stack, "AWS::StepFunctions::StateMachine")[
        stack.get_logical_id(workflow.state_machine.node.default_child)
    ]
    assert "EncryptionConfiguration" not in alone["Properties"]
