"""The tools that reviewers run over a template: cdk-nag and cfn-lint."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import Validations
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sns as sns
from aws_cdk import aws_stepfunctions as sfn
from cdk_nag import AwsSolutionsChecks
from tests.assemblies import template_validation
from tests.constructs.conftest import RECIPE

from cdk_inference import (
    AuditLog,
    Capacity,
    CapacitySchedule,
    CpuInference,
    DirectPipeline,
    DynamoStreamTrigger,
    EmbeddingSink,
    Execution,
    Inference,
    InferencePipeline,
    ItemsFormat,
    KinesisTrigger,
    LambdaPlatform,
    ModelArtifact,
    ModelDelivery,
    Preprocess,
    QueueTrigger,
    ResultsExport,
    ResultsTable,
    Route,
    Routing,
    S3ItemsTrigger,
    SageMakerAsync,
    ScheduleTrigger,
    WorkBucket,
)
from cdk_inference.model import Float16


@pytest.fixture
def app(tmp_path):
    app = cdk.App(outdir=str(tmp_path / "cdk.out"), context={"aws:cdk:bundling-stacks": []})
    Validations.of(app).add_plugins(AwsSolutionsChecks(app), template_validation())
    return app


def add_pipeline(app, **props):
    stack = cdk.Stack(app, "Stack")
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    return InferencePipeline(
        stack,
        "Photos",
        model=model,
        preprocess=Preprocess.image(size=224),
        **{name: make(stack) for name, make in props.items()},
    )


def add_routed_pipeline(app):
    """Add a pipeline with everything that can be part of a routing, and both kinds of GPU."""
    stack = cdk.Stack(app, "Stack")

    def route(name, inference=None, precision=None):
        model = ModelArtifact(stack, f"Model{name}", recipe=replace(RECIPE, name=name), precision=precision)
        return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=inference or Inference.cpu())

    small, large = route("small"), route("large", Inference.gpu(), Float16())
    other = route("other", Inference.gpu(backend=SageMakerAsync()), Float16())
    cascade = Routing.cascade(first=small, then=large, threshold=0.5)
    by_metadata = Routing.by_metadata("model", {"other": other}, otherwise=cascade)
    decided = Routing.by_function(
        f"{Path(__file__).parents[1] / 'routing' / 'deciding.py'}:decide", {"left": by_metadata, "right": small}
    )
    InferencePipeline(stack, "Photos", routing=Routing.by_tag("class", {"cheap": small}, otherwise=decided))
    return stack


def add_fused_pipeline(app):
    return add_pipeline(app, execution=lambda _: Execution.fused())


def add_audited_pipeline(app):
    """Add a pipeline whose results are events, with a log of them."""
    pipeline = add_pipeline(app, execution=lambda _: Execution.fused())
    pipeline.audit(AuditLog(cdk.Stack.of(pipeline), "Log"))


def add_backfill(app):
    """Add a pipeline with a backfill, and who starts it."""
    pipeline = add_pipeline(app, prefix=lambda _: "in/", execution=lambda _: Execution.fused())
    stack = cdk.Stack.of(pipeline)
    pipeline.add_backfill(inventory_bucket=s3.Bucket.from_bucket_name(stack, "Inventories", "inventories"))


def add_capacities(app):
    """Add a function with each way to shorten a cold start."""
    stack = cdk.Stack(app, "Stack")
    model, work = ModelArtifact(stack, "Model", recipe=RECIPE), WorkBucket(stack, "Work")
    schedules = [CapacitySchedule(min_capacity=5, hour=8, week_day="MON-FRI", time_zone="Europe/Berlin")]
    provisioned = Capacity.provisioned(1, schedules=schedules, target_utilization=0.7, max_capacity=9)
    capacities = {"Snapshots": Capacity.snap_start(), "Warmed": Capacity.keep_warm(6), "Provisioned": provisioned}
    for id, capacity in capacities.items():
        CpuInference(stack, id, model=model, work=work, capacity=capacity)


def add_deliveries(app):
    """Add a function with each delivery of its model."""
    stack = cdk.Stack(app, "Stack")
    model, work = ModelArtifact(stack, "Model", recipe=RECIPE), WorkBucket(stack, "Work")
    model.path = Path(app.outdir) / "model"
    model.path.mkdir(parents=True)
    (model.path / "model.onnx").write_bytes(b"")
    for name in ("zip", "layer", "s3", "image"):
        CpuInference(stack, name, model=model, work=work, delivery=getattr(ModelDelivery, name)())


def add_triggers(app):
    """Add each trigger but that for objects, for a workflow of another stack, and a direct pipeline."""
    stack = cdk.Stack(app, "Stack")
    key = kms.Key(stack, "Key", enable_key_rotation=True)
    table = dynamodb.Table(
        stack,
        "Users",
        partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
        stream=dynamodb.StreamViewType.NEW_IMAGE,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        encryption_key=key,
    )
    stream = kinesis.Stream(stack, "Clicks", encryption=kinesis.StreamEncryption.MANAGED)
    daily = scheduler.ScheduleExpression.rate(cdk.Duration.days(1))
    arn = stack.format_arn(
        service="states",
        resource="stateMachine",
        resource_name="Theirs",
        arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
    )
    workflow = sfn.StateMachine.from_state_machine_arn(stack, "Workflow", arn)
    for trigger in (
        QueueTrigger(stack, "Queue"),
        KinesisTrigger(stack, "Kinesis", stream=stream),
        DynamoStreamTrigger(stack, "Dynamo", table=table),
        ScheduleTrigger(stack, "Schedule", schedule=daily, inputs={"a": 1}, encryption_key=key),
        S3ItemsTrigger(stack, "Items", items=ItemsFormat.csv(), write_results=True, encryption_key=key),
        S3ItemsTrigger(stack, "Archives", items=ItemsFormat.zip(), prefix="in/"),
    ):
        trigger.add_target(workflow)
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    DirectPipeline(stack, "Direct", model=model, preprocess=Preprocess.image(size=224), encryption_key=key)


def add_sinks(app):
    """Add what takes results out of a table."""
    stack = cdk.Stack(app, "Stack")
    key = kms.Key(stack, "Key", enable_key_rotation=True)
    results = ResultsTable(stack, "Results", indexes=["status"], encryption_key=key)
    EmbeddingSink(stack, "Embeddings", results=results, dimension=384, encryption_key=key)
    ResultsExport(stack, "Export", results=results)
    ResultsExport(stack, "Daily", results=results, window=cdk.Duration.days(1), prefix="daily/", encryption_key=key)


def add_monitored_pipeline(app):
    """Add a pipeline with all that tells how it is doing."""
    stack = cdk.Stack(app, "Stack")
    pipeline = InferencePipeline(
        stack,
        "Photos",
        model=ModelArtifact(stack, "Model", recipe=RECIPE),
        preprocess=Preprocess.image(size=224),
    )
    pipeline.add_drift_monitor()
    pipeline.add_dashboard()
    pipeline.add_alarms(
        topic=sns.Topic(
            stack, "Topic", enforce_ssl=True, master_key=kms.Key(stack, "TopicKey", enable_key_rotation=True)
        )
    )


def report(app):
    """Return the findings of cdk-nag and those that were acknowledged."""
    try:
        app.synth()
    except RuntimeError as error:
        assert "ValidationFailed" in str(error)  # noqa: PT017 (synth raises for findings: the report says which)
    plugins = json.loads((Path(app.outdir) / "validation-report.json").read_text())["pluginReports"]
    return (
        [violation for plugin in plugins for violation in plugin["violations"]],
        [violation for plugin in plugins for violation in plugin.get("suppressedViolations", [])],
    )


@pytest.mark.parametrize(
    "props",
    [
        {"bucket": lambda stack: s3.Bucket.from_bucket_name(stack, "Inbox", "my-photos")},
        {"encryption_key": lambda stack: kms.Key(stack, "Mine", enable_key_rotation=True), "prefix": lambda _: "in/"},
        {"execution": lambda _: Execution.fused()},
    ],
    ids=["imported-bucket", "own-key", "fused"],
)
def test_cdk_nag_has_no_finding_that_is_not_acknowledged(app, props):
    add_pipeline(app, **props)
    violations, _ = report(app)
    assert [v["ruleName"] for v in violations] == []


def test_every_acknowledgment_has_its_reason_and_is_used_and_nothing_else_is_found(app):
    add_pipeline(app)
    violations, acknowledged = report(app)
    assert [v["ruleName"] for v in violations] == []
    rules = {violation["ruleName"].partition("[")[0] for violation in acknowledged}
    assert rules == {"AwsSolutions-S1", "AwsSolutions-SF1", "AwsSolutions-SQS3", "AwsSolutions-IAM5"}
    text = json.dumps(acknowledged)
    for reason in ("access logs need a second bucket", "every event of every batch", "X-Ray", "named by a pattern"):
        assert reason in text


def test_an_acknowledgment_does_not_hide_what_a_user_adds_so_nag_fails(app):
    add_pipeline(app).stages.preprocess.role.add_to_policy(
        cdk.aws_iam.PolicyStatement(actions=["s3:*"], resources=["arn:aws:s3:::other/*"])
    )
    violations, _ = report(app)
    assert {v["ruleName"] for v in violations} == {
        "AwsSolutions-IAM5[Action::s3:*]",
        "AwsSolutions-IAM5[Resource::arn:aws:s3:::other/*]",
    }


def test_cdk_nag_has_no_finding_in_a_routed_pipeline_with_gpus(app):
    add_routed_pipeline(app)
    violations, acknowledged = report(app)
    assert [(v["ruleName"], v["violatingResources"]) for v in violations] == []
    assert acknowledged


@pytest.mark.parametrize("add", [add_fused_pipeline, add_routed_pipeline])
def test_cdk_nag_has_no_finding_in_the_local_target(app, add):
    app.node.set_context("cdk-inference:platform", "3.12/x86_64")
    app.node.set_context("cdk-inference:accelerator", "cpu")
    add(app)
    violations, acknowledged = report(app)
    assert [(v["ruleName"], v["violatingResources"]) for v in violations] == []
    assert [v for v in acknowledged if v["ruleName"] == "AwsSolutions-L1"]


def test_cdk_nag_has_no_finding_in_what_monitors_a_pipeline(app):
    add_monitored_pipeline(app)
    violations, _ = report(app)
    assert [(v["ruleName"], v["violatingResources"]) for v in violations] == []


def test_cdk_nag_fails_an_old_python_that_a_user_chose(app):
    platform = LambdaPlatform("3.12")
    add_pipeline(app, platform=lambda _: platform)
    violations, _ = report(app)
    assert {v["ruleName"] for v in violations} == {"AwsSolutions-L1"}


@pytest.mark.parametrize(
    "add", [add_audited_pipeline, add_backfill, add_capacities, add_deliveries, add_sinks, add_triggers]
)
def test_cdk_nag_has_no_finding_in_other_parts(app, add):
    add(app)
    violations, acknowledged = report(app)
    assert [(v["ruleName"], v["violatingResources"]) for v in violations] == []
    assert acknowledged


def test_cfn_lint_is_clean(tmp_path):
    """Lint the parts that are not in a reference app, for no judge of ``make verify`` lints these."""
    templates = []
    for add in (add_monitored_pipeline, add_triggers):
        app = cdk.App(outdir=str(tmp_path / add.__name__), context={"aws:cdk:bundling-stacks": []})
        add(app)
        app.synth()
        templates.append(Path(app.outdir) / "Stack.template.json")
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [linter, "--regions", "us-east-1", "--", *templates], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
