"""The reference apps that all judges look at: `python -m verify.references FOLDER` synthesizes them.

Nothing is built or bundled, so that it takes seconds. The templates are those of `cdk synth` but for the hashes of
assets and the versions of models.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_cdk import App, Stack

    from cdk_inference import ModelArtifact
    from cdk_inference.model.recipe.precision import Pinned

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".verify"
"""The folder for what the judges install and synthesize; git ignores it."""

UNTRACED = frozenset({"Sources", "Afterwards"})
"""Apps whose calls end-to-end tests make, with the role of each part.

The table of `verify.policies.flows` and the scenarios of `verify.definitions` do not know them.
"""

_READ = ("constructs/cdk_inference/**/*.py", "constructs/cdk_inference/*.toml", "verify/references.py", "cdk.json")
_PACKAGES = ("aws-cdk-lib", "constructs", "cdk-nag")


@dataclass(frozen=True)
class Reference:
    """A reference app, synthesized.

    Parameters
    ----------
    name
        The name of the app, which has one stack of this name.
    path
        Its template.
    """

    name: str
    path: Path

    @cached_property
    def template(self) -> dict[str, Any]:
        """The template."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources, by logical id."""
        found: dict[str, dict[str, Any]] = self.template["Resources"]
        return found


def references() -> list[Reference]:
    """Return the reference apps, synthesized anew only if what they are made of has changed."""
    key = _key()
    folder = FOLDER / "references" / key
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / "references.lock"):
        if not folder.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)
            making = folder.with_name("making")
            command = [sys.executable, "-m", "verify.references", str(making)]
            shutil.rmtree(making, ignore_errors=True)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{done.stdout}{done.stderr}\nerror: the reference apps must synthesize; see above")
            making.rename(folder)
    return [Reference(name, folder / f"{name}.template.json") for name in apps()]


def _key() -> str:
    digest = hashlib.sha256()
    for pattern in _READ:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\0".encode())
    return digest.hexdigest()[:16]


def apps() -> dict[str, Callable[[Stack], None]]:
    """Return what makes the stack of each reference app."""
    return {
        "Default": _default,
        "Fused": _fused,
        "OwnKey": _own_key,
        "Routed": _routed,
        "Gpu": _gpu,
        "SageMaker": _sagemaker,
        "ManagedInstances": _managed_instances,
        "Capacities": _capacities,
        "Deliveries": _deliveries,
        "Audited": _audited,
        "Released": _released,
        "Apis": _apis,
        "Sources": _sources,
        "Afterwards": _afterwards,
    }


def app(outdir: Path) -> App:
    """Return the app with all stacks, not synthesized yet."""
    import aws_cdk as cdk  # noqa: PLC0415 - judges that only read templates need no Node

    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    made = cdk.App(outdir=str(outdir), context={**context, "aws:cdk:bundling-stacks": []})
    for name, add in apps().items():
        add(cdk.Stack(made, name))
    return made


def _model(stack: Stack, name: str = "tiny", *, precision: Pinned | None = None) -> ModelArtifact:
    from cdk_inference import ModelArtifact  # noqa: PLC0415
    from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule  # noqa: PLC0415

    recipe = ModelRecipe(
        name=name,
        source=TorchModule("factory.py:build"),
        precision=Float32(),
        inputs=(TensorSpec("image", "uint8", ("batch", 224, 224, 3)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
        evaluation=Evaluation(data="data.py:evaluation"),
        provenance=Provenance(license="Apache-2.0", origin="made for the judges"),
    )
    return ModelArtifact(stack, f"Model-{name}", recipe=recipe, precision=precision)


def _pipeline(stack: Stack, **props: Any) -> None:
    from cdk_inference import InferencePipeline, Preprocess  # noqa: PLC0415

    if "routing" not in props:
        props.setdefault("model", None)
        props = {**props, "model": props["model"] or _model(stack), "preprocess": Preprocess.image(size=224)}
    InferencePipeline(stack, "Photos", **props)


def _default(stack: Stack) -> None:
    _pipeline(stack)


def _fused(stack: Stack) -> None:
    from cdk_inference import Execution  # noqa: PLC0415

    _pipeline(stack, execution=Execution.fused())


def _audited(stack: Stack) -> None:
    from cdk_inference import (  # noqa: PLC0415
        AbortOn,
        AuditLog,
        Execution,
        InferencePipeline,
        Preprocess,
        Release,
        Route,
    )

    preprocess = Preprocess.image(size=224)
    candidate = Route("new", model=_model(stack, "new"), preprocess=preprocess)
    pipeline = InferencePipeline(
        stack,
        "Photos",
        model=_model(stack),
        preprocess=preprocess,
        execution=Execution.fused(),
        release=Release.canary(candidate=candidate, abort_on=[AbortOn.errors()]),
    )
    pipeline.add_drift_monitor()
    pipeline.audit(AuditLog(stack, "Log"))


def _released(stack: Stack) -> None:
    from aws_cdk import aws_cloudwatch as cloudwatch  # noqa: PLC0415
    from aws_cdk import aws_cloudwatch_actions as actions  # noqa: PLC0415
    from aws_cdk import aws_sns as sns  # noqa: PLC0415

    from cdk_inference import AbortOn, Preprocess, Release, Route  # noqa: PLC0415

    metric = cloudwatch.Metric(namespace="Shop", metric_name="Complaints")
    alarm = metric.create_alarm(stack, "Complaints", threshold=9, evaluation_periods=1)
    on_call = sns.Topic.from_topic_arn(stack, "OnCall", "arn:aws:sns:eu-west-1:111122223333:on-call")
    alarm.add_alarm_action(actions.SnsAction(on_call))
    candidate = Route("new", model=_model(stack, "new"), preprocess=Preprocess.image(size=224))
    disagreement = AbortOn.disagreement(metric="top1_agreement", agreement=0.9)
    _pipeline(stack, release=Release.canary(candidate=candidate, abort_on=[AbortOn.errors(), disagreement, alarm]))


def _apis(stack: Stack) -> None:
    from aws_cdk import aws_kms as kms  # noqa: PLC0415

    from cdk_inference import Execution, InferencePipeline, Preprocess, QueueTrigger  # noqa: PLC0415

    key = kms.Key(stack, "Key", enable_key_rotation=True)
    model, preprocess = _model(stack), Preprocess.image(size=224)
    photos = InferencePipeline(stack, "Photos", model=model, preprocess=preprocess)
    rest = photos.add_rest_api()
    rest.add_uploads({"image/jpeg": ".jpg"})
    rest.add_results()
    rest.add_client("Client", throttle_rate=10, throttle_burst=20)
    texts = InferencePipeline(
        stack,
        "Texts",
        model=model,
        preprocess=preprocess,
        trigger=QueueTrigger(stack, "Inbox", encryption_key=key),
        encryption_key=key,
    )
    texts.add_rest_api().add_items()
    fused = InferencePipeline(stack, "Fused", model=model, preprocess=preprocess, execution=Execution.fused())
    fused.add_http_api()


def _sources(stack: Stack) -> None:
    """Add a pipeline for each source of items besides a bucket and a queue."""
    from aws_cdk import Duration  # noqa: PLC0415
    from aws_cdk import aws_dynamodb as dynamodb  # noqa: PLC0415
    from aws_cdk import aws_kinesis as kinesis  # noqa: PLC0415
    from aws_cdk import aws_scheduler as scheduler  # noqa: PLC0415

    from cdk_inference import (  # noqa: PLC0415
        DynamoStreamTrigger,
        Execution,
        InferencePipeline,
        ItemsFormat,
        KinesisTrigger,
        Preprocess,
        S3ItemsTrigger,
        ScheduleTrigger,
    )

    model, preprocess = _model(stack), Preprocess.image(size=224)
    stream = kinesis.Stream.from_stream_arn(stack, "Stream", "arn:aws:kinesis:eu-west-1:111122223333:stream/photos")
    table = dynamodb.TableV2.from_table_attributes(
        stack,
        "Table",
        table_name="photos",
        table_stream_arn="arn:aws:dynamodb:eu-west-1:111122223333:table/photos/stream/2026",
    )
    daily = scheduler.ScheduleExpression.rate(Duration.days(1))
    triggers = {
        "Records": KinesisTrigger(stack, "KinesisTrigger", stream=stream),
        "Changes": DynamoStreamTrigger(stack, "TableTrigger", table=table),
        "Daily": ScheduleTrigger(stack, "ScheduleTrigger", schedule=daily, inputs={"one": {"a": 1}}),
        "Lines": S3ItemsTrigger(stack, "LinesTrigger", items=ItemsFormat.json_lines(), write_results=True),
    }
    for id, trigger in triggers.items():
        InferencePipeline(stack, id, model=model, preprocess=preprocess, trigger=trigger, execution=Execution.fused())


def _afterwards(stack: Stack) -> None:
    """Add what follows answers: objects from before, sinks, and a retraining."""
    from aws_cdk import aws_codepipeline as codepipeline  # noqa: PLC0415
    from aws_cdk import aws_iam as iam  # noqa: PLC0415

    from cdk_inference import (  # noqa: PLC0415
        DeploymentJob,
        EmbeddingSink,
        InferencePipeline,
        Preprocess,
        ResultsExport,
        ResultsTable,
        RetrainOn,
        TrainingJob,
    )

    results = ResultsTable(stack, "Results", indexes=["status"])
    pipeline = InferencePipeline(
        stack, "Photos", model=_model(stack), preprocess=Preprocess.image(size=224), results=results
    )
    pipeline.add_backfill()
    ResultsExport(stack, "Export", results=results)
    EmbeddingSink(stack, "Vectors", results=results, dimension=10)
    role = iam.Role.from_role_arn(stack, "Role", "arn:aws:iam::111122223333:role/jobs", mutable=False)
    batch = "arn:aws:batch:eu-west-1:111122223333"
    job = TrainingJob.batch(
        job_definition_arn=f"{batch}:job-definition/train:1", job_queue_arn=f"{batch}:job-queue/jobs", job_role=role
    )
    delivery = "arn:aws:codepipeline:eu-west-1:111122223333:delivery"
    pipeline.add_retraining(
        classes=["cat", "dog"],
        training=job,
        build=job,
        deployment=DeploymentJob.code_pipeline(codepipeline.Pipeline.from_pipeline_arn(stack, "Delivery", delivery)),
        when=[RetrainOn.new_labels(100)],
    )


def _own_key(stack: Stack) -> None:
    from aws_cdk import aws_kms as kms  # noqa: PLC0415
    from aws_cdk import aws_s3 as s3  # noqa: PLC0415

    bucket = s3.Bucket.from_bucket_name(stack, "Inbox", "my-photos")
    key = kms.Key(stack, "Key", enable_key_rotation=True)
    _pipeline(stack, encryption_key=key, bucket=bucket, prefix="in/")


def _routed(stack: Stack) -> None:
    from cdk_inference import Inference, Preprocess, Route, Routing, SageMakerAsync  # noqa: PLC0415
    from cdk_inference.model import Float16  # noqa: PLC0415

    def route(name: str, inference: Inference | None = None) -> Route:
        precision = None if inference is None else Float16()
        model = _model(stack, name, precision=precision)
        return Route(name, model=model, preprocess=Preprocess.image(size=224), inference=inference or Inference.cpu())

    small, large = route("small"), route("large", Inference.gpu())
    other = route("other", Inference.gpu(backend=SageMakerAsync()))
    cascade = Routing.cascade(first=small, then=large, threshold=0.5)
    by_metadata = Routing.by_metadata("model", {"other": other}, otherwise=cascade)
    decided = Routing.by_function(
        f"{ROOT / 'tests' / 'constructs' / 'routing' / 'deciding.py'}:decide", {"left": by_metadata, "right": small}
    )
    _pipeline(stack, routing=Routing.by_tag("class", {"cheap": small}, otherwise=decided))


def _gpu(stack: Stack) -> None:
    from cdk_inference import Inference  # noqa: PLC0415
    from cdk_inference.model import Float16  # noqa: PLC0415

    _pipeline(stack, model=_model(stack, precision=Float16()), inference=Inference.gpu())


def _sagemaker(stack: Stack) -> None:
    from cdk_inference import Inference, SageMakerAsync  # noqa: PLC0415
    from cdk_inference.model import Float16  # noqa: PLC0415

    inference = Inference.gpu(backend=SageMakerAsync())
    _pipeline(stack, model=_model(stack, precision=Float16()), inference=inference)


def _managed_instances(stack: Stack) -> None:
    from cdk_inference import Capacity, Execution, Inference  # noqa: PLC0415

    capacity = Capacity.managed_instances()
    _pipeline(
        stack,
        capacity=capacity,
        inference=Inference.cpu(capacity=capacity, memory_size=2048),
        execution=Execution.staged(preprocess_memory_size=2048, postprocess_memory_size=2048),
    )


def _capacities(stack: Stack) -> None:
    """Add a function with each other way to shorten a cold start."""
    from cdk_inference import Capacity, CapacitySchedule, CpuInference, WorkBucket  # noqa: PLC0415

    model, work = _model(stack), WorkBucket(stack, "Work")
    schedules = [CapacitySchedule(min_capacity=5, hour=8, week_day="MON-FRI", time_zone="Europe/Berlin")]
    provisioned = Capacity.provisioned(1, schedules=schedules, target_utilization=0.7, max_capacity=9)
    capacities = {"Snapshots": Capacity.snap_start(), "Warmed": Capacity.keep_warm(6), "Provisioned": provisioned}
    for id, capacity in capacities.items():
        CpuInference(stack, id, model=model, work=work, capacity=capacity)


def _deliveries(stack: Stack) -> None:
    """Add a function with each delivery of its model."""
    from cdk_inference import CpuInference, ModelDelivery, WorkBucket  # noqa: PLC0415

    model, work = _model(stack), WorkBucket(stack, "Work")
    for name in ("zip", "layer", "s3", "image"):
        CpuInference(stack, name, model=model, work=work, delivery=getattr(ModelDelivery, name)())


if __name__ == "__main__":
    app(Path(sys.argv[1])).synth()
