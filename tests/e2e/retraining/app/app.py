"""A pipeline over records of four numbers, whose retraining has jobs that do what a file tells them to."""

import os
import sys
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs

from cdk_inference import (
    AuditLog,
    DeploymentJob,
    Execution,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    RetrainOn,
    TrainingJob,
)

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "events" / "app" / "model" / "recipe.py"

app = cdk.App()
stack = cdk.Stack(app, "Faults")


def project(name: str) -> codebuild.Project:
    command = f"{sys.executable} {HERE / 'obey.py'} {name.lower()}"
    spec = {"version": "0.2", "phases": {"install": {"commands": ["exit 1"]}, "build": {"commands": [command]}}}
    return codebuild.Project(
        stack,
        name,
        build_spec=codebuild.BuildSpec.from_object(spec),
        environment_variables={"ORDERS": codebuild.BuildEnvironmentVariable(value=os.environ["RETRAINING_ORDERS"])},
    )


pipeline = InferencePipeline(
    stack,
    "Records",
    model=ModelArtifact(stack, "Model", recipe=MODEL),
    preprocess=Preprocess.json(fields=["a", "b", "c", "d"]),
    postprocess=Postprocess.classification(labels=["low", "middle", "high"]),
    execution=Execution.fused(),
    max_batching_window=cdk.Duration.seconds(1),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
pipeline.audit(AuditLog(stack, "Log", max_batching_window=cdk.Duration.seconds(1)))
retraining = pipeline.add_retraining(
    classes=["low", "middle", "high"],
    training=TrainingJob.code_build(project("Train")),
    build=TrainingJob.code_build(project("Build")),
    deployment=DeploymentJob.code_build(project("Deploy")),
    when=[RetrainOn.new_labels(3)],
    max_runs_per_month=100,
)
retraining.grant_label(iam.Role(stack, "Labeller", role_name="labeller", assumed_by=iam.AccountRootPrincipal()))
retraining.on_outcome("Outcomes", target=targets.SqsQueue(sqs.Queue(stack, "Queue", queue_name="outcomes")))
app.synth()
