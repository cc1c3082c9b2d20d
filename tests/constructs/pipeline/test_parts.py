"""Every part of a pipeline is of use alone."""

from __future__ import annotations

import json
from dataclasses import replace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Template
from tests.constructs.conftest import resources

from cdk_inference import (
    CpuInference,
    InferenceWorkflow,
    Postprocess,
    PostprocessFunction,
    Preprocess,
    PreprocessFunction,
    PropError,
    ResultsTable,
    S3Trigger,
    StagedRoute,
    StageFunction,
    WorkBucket,
)
from cdk_inference.bundling.packages import ZipPackage


def test_a_trigger_starts_any_express_workflow(stack):
    machine = sfn.StateMachine(
        stack,
        "Mine",
        definition_body=sfn.DefinitionBody.from_chainable(sfn.Pass(stack, "Nothing")),
        state_machine_type=sfn.StateMachineType.EXPRESS,
    )
    S3Trigger(stack, "Trigger", prefix="in/").add_target(machine)
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert pipe["Properties"]["Target"] == stack.resolve(machine.state_machine_arn)
    # without a key of the user's, S3 and SQS encrypt with theirs
    (bucket,) = resources(stack, "AWS::S3::Bucket").values()
    assert "AES256" in json.dumps(bucket["Properties"]["BucketEncryption"])
    assert {q["Properties"]["SqsManagedSseEnabled"] for q in resources(stack, "AWS::SQS::Queue").values()} == {True}
    assert not resources(stack, "AWS::KMS::Key")


def test_the_stages_make_a_workflow_without_a_pipeline(stack, model):
    trigger = S3Trigger(stack, "Trigger")
    work = WorkBucket(stack, "Work")
    results = ResultsTable(stack, "Results", point_in_time_recovery=False, deletion_protection=True)
    workflow = InferenceWorkflow(
        stack,
        "Workflow",
        routes=[
            StagedRoute(
                preprocess=PreprocessFunction(
                    stack, "Pre", stage=Preprocess.image(size=224), model=model, trigger=trigger, work=work
                ),
                inference=CpuInference(stack, "Infer", model=model, work=work, memory_size=3538),
                postprocess=PostprocessFunction(
                    stack, "Post", stage=Postprocess.outputs(), model=model, work=work, results=results
                ),
            )
        ],
        timeout=cdk.Duration.minutes(2),
    )
    trigger.add_target(workflow.state_machine)
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    (replica,) = table["Properties"]["Replicas"]
    assert replica["DeletionProtectionEnabled"] is True
    assert replica["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": False}
    assert "SSESpecification" not in replica


def test_a_batch_can_be_run_by_hand(stack, pipeline):
    operator = iam.User(stack, "Operator")
    pipeline().workflow.grant_start_sync_execution(operator)
    (policy,) = [p for n, p in resources(stack, "AWS::IAM::Policy").items() if n.startswith("Operator")]
    encrypt, start = policy["Properties"]["PolicyDocument"]["Statement"]
    assert start["Action"] == "states:StartSyncExecution"
    # Executions are encrypted with the pipeline's key, for this state machine alone.
    assert encrypt["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert list(encrypt["Condition"]["StringEquals"]) == ["kms:EncryptionContext:aws:states:stateMachineArn"]


def test_resources_say_what_they_are(stack, pipeline):
    pipeline(prefix="in/")
    marks = {
        resource["Metadata"]["cdk-inference"]["role"]: resource["Metadata"]["cdk-inference"]
        for resource in Template.from_stack(stack).to_json()["Resources"].values()
        if "cdk-inference" in resource.get("Metadata", {})
    }
    assert set(marks) == {
        "inbox",
        "queue",
        "dead-letter-queue",
        "undelivered-queue",
        "pipe",
        "state-machine",
        "function",
        "results",
        "work",
    }
    assert {mark["pipeline"] for mark in marks.values()} == {"Stack/Photos"}
    assert marks["pipe"]["prefix"] == "in/"
    assert "Ref" in marks["pipe"]["bucket"]


def test_the_inference_function_carries_the_manifest(stack, pipeline):
    pipeline()
    models = [
        function["Metadata"]["cdk-inference"]["model"]
        for function in resources(stack, "AWS::Lambda::Function").values()
        if "model" in function["Metadata"]["cdk-inference"]
    ]
    assert [model["name"] for model in models] == ["tiny"]


@pytest.mark.parametrize("dependent", [False, True])
def test_a_model_whose_items_depend_on_each_other_gets_one_at_a_time(stack, model, pipeline, dependent):
    model.manifest = replace(model.manifest, batch_dependent=dependent)
    pipeline()
    environments = [f["Properties"]["Environment"] for f in resources(stack, "AWS::Lambda::Function").values()]
    assert [e["Variables"]["MAX_BATCH"] for e in environments if "MAX_BATCH" in e["Variables"]] == ["1"] * dependent


def test_an_environment_that_is_too_large_fails(stack):
    with pytest.raises(
        PropError, match=r"Stack/Mine must be at most 4096 bytes, got \d+; shorten what goes into WORDS"
    ):
        StageFunction(
            stack,
            "Mine",
            package=ZipPackage("a.b", "postprocess"),
            environment={"WORDS": "word " * 1000},
            description="",
            memory_size=128,
            timeout=cdk.Duration.seconds(1),
        )


def test_options_that_the_environment_would_not_hold_travel_in_a_file():
    fields = [f"a rather long name of a field, number {i}" for i in range(300)]
    code = Preprocess.json(fields=fields).code
    assert code.environment() == {
        "STAGE_FUNCTION": "inference_runtime.stages.builtin.tabular:json_preprocessor",
        "STAGE_OPTIONS_FILE": "stage_options.json",
    }
    assert json.loads(code.files()["stage_options.json"]) == {"fields": fields, "dtype": "float32"}
    assert "stage_options.json" not in Preprocess.json(fields=["a"]).code.files()


def test_a_stage_that_is_not_a_lambda_size_fails(stack):
    with pytest.raises(PropError, match=r"memory_size must be 128 to 10240 MiB on Lambda, where .* runs, got 20000"):
        StageFunction(
            stack,
            "Mine",
            package=ZipPackage("a.b", "postprocess"),
            environment={},
            description="",
            memory_size=20_000,
            timeout=cdk.Duration.seconds(1),
        )
