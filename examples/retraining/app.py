"""A classifier that is trained again with what people label, judged by its gate, and released as a canary.

It reads digits, or with ``-c subject=texts`` the language of texts. The first deployment has the model of the recipe.
`deploy.py`, which the last job runs, names the versions in the registry that come after it.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from aws_cdk import App, Duration, RemovalPolicy, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_sns as sns

from cdk_inference import (
    AbortOn,
    AuditLog,
    DeploymentJob,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    Release,
    RetrainOn,
    Route,
    TrainingJob,
)

HERE = Path(__file__).parent
OF_DIGITS = ("factory.py", "digits.csv.gz", "labels.txt", "weights.safetensors")


def files(folder: Path, context: dict[str, object]) -> Path:
    """Put the app and its model together, as the jobs get them, with the settings of this synth."""
    others = {"digits", "texts"} - {SUBJECT}
    ignored = shutil.ignore_patterns("__pycache__", "cdk.out", *others)
    shutil.copytree(HERE, folder, dirs_exist_ok=True, ignore=ignored)
    for name in OF_DIGITS if SUBJECT == "digits" else ():
        if not (folder / SUBJECT / name).exists():  # the jobs have them already
            shutil.copy(HERE.parents[1] / "model_assets" / "digits_cnn" / name, folder / SUBJECT)
    (folder / "cdk.json").write_text(json.dumps({"app": "python3 app.py", "context": context}, sort_keys=True))
    return folder


def model(stack: Stack, id: str, variable: str, recipe: Path) -> ModelArtifact | None:
    """Return the model of the registry that a variable names; without one, that of the recipe."""
    version = os.environ.get(variable)
    if version:
        registry = f"s3://{os.environ['RETRAINING_BUCKET']}/models"
        return ModelArtifact.from_registry(stack, id, registry=registry, name=f"{SUBJECT}-retrained", version=version)
    return ModelArtifact(stack, id, recipe=recipe) if variable == "STABLE_VERSION" else None


def project(stack: Stack, id: str, source: s3_assets.Asset, install: list[str], command: str) -> codebuild.Project:
    """Return a project of CodeBuild whose builds run a command among the files."""
    phases = {"install": {"commands": install}, "build": {"commands": [command]}}
    made = codebuild.Project(
        stack,
        id,
        source=codebuild.Source.s3(bucket=source.bucket, path=source.s3_object_key),
        build_spec=codebuild.BuildSpec.from_object({"version": "0.2", "phases": phases}),
        environment=codebuild.BuildEnvironment(
            build_image=codebuild.LinuxBuildImage.STANDARD_7_0, compute_type=codebuild.ComputeType.MEDIUM
        ),
        environment_variables={"STACK": codebuild.BuildEnvironmentVariable(value=stack.stack_name)},
        timeout=Duration.minutes(30),
    )
    source.grant_read(made)
    return made


app = App()
SUBJECT = app.node.try_get_context("subject") or "digits"
stack = Stack(app, SUBJECT.capitalize(), description=f"Retrains a classifier of {SUBJECT} (cdk-inference)")
staged = tempfile.TemporaryDirectory(prefix="retraining-")
folder = files(Path(staged.name), app.node.get_all_context())
labels, recipe = (folder / SUBJECT / name for name in ("labels.txt", "recipe.py"))
if SUBJECT == "texts":
    preprocess = Preprocess.text(tokenizer=folder / SUBJECT / "tokenizer.json", max_length=128)
else:
    preprocess = Preprocess.tensor()
stable = model(stack, "Stable", "STABLE_VERSION", recipe)
candidate = model(stack, "Candidate", "CANDIDATE_VERSION", recipe)

release = None
if candidate is not None:
    release = Release.canary(
        candidate=Route("retrained", model=candidate, preprocess=preprocess),
        steps=[50, 100],
        bake_time=Duration.seconds(10),  # so that you can watch; half an hour or more in production
        window=Duration.seconds(5),
        # A model that was retrained must answer differently, so leave disagreement out.
        abort_on=[AbortOn.errors()],
    )
pipeline = InferencePipeline(
    stack,
    "Reader",
    model=stable,
    preprocess=preprocess,
    postprocess=Postprocess.classification(labels=labels),
    release=release,
    max_batching_window=Duration.seconds(1),
    removal_policy=RemovalPolicy.DESTROY,
)

program = "python3 -m cdk_inference.retraining"
source = s3_assets.Asset(stack, "Files", path=str(folder))
tools = [
    "pip install torch --index-url https://download.pytorch.org/whl/cpu",
    "pip install 'cdk-inference[model,registry]' tokenizers",
]
cdk = ["pip install 'cdk-inference[model,registry]'", "npm install --global aws-cdk"]
deploy = project(stack, "Deploy", source, [tools[0], *cdk], "python3 deploy.py")
deploy.add_to_role_policy(
    iam.PolicyStatement(
        actions=["sts:AssumeRole"],  # the roles of `cdk bootstrap`
        resources=[stack.format_arn(service="iam", region="", resource="role", resource_name="cdk-*")],
    )
)
deploy.add_to_role_policy(
    iam.PolicyStatement(
        actions=["cloudformation:GetTemplate", "cloudformation:DescribeStackResources"],
        resources=[stack.format_arn(service="cloudformation", resource="stack", resource_name=f"{stack.stack_name}/*")],
    )
)
if pipeline.release is not None:
    pipeline.release.grant_records(deploy, "dynamodb:Query")

retraining = pipeline.add_retraining(
    classes=labels,
    training=TrainingJob.code_build(
        project(stack, "Train", source, tools, f"{program} train -- python3 {SUBJECT}/retrain.py")
    ),
    build=TrainingJob.code_build(project(stack, "Build", source, tools, f"{program} build {SUBJECT}/recipe.py")),
    deployment=DeploymentJob.code_build(deploy),
    when=[RetrainOn.new_labels(50)],
)
retraining.on_outcome(
    "Refused", statuses=["REFUSED", "FAILED"], target=targets.SnsTopic(sns.Topic(stack, "Notices", enforce_ssl=True))
)
pipeline.audit(AuditLog(stack, "Log", max_batching_window=Duration.seconds(1)))
app.synth()
staged.cleanup()
