"""Retraining: labels come in, a workflow trains, and the gate of the recipe decides what ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.principals import events_principal
from cdk_inference.common.props.descriptions import ROLE, described
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_at_least, check_choice
from cdk_inference.errors import PropError
from cdk_inference.events.buses import bus_of, check_same_bus, rule_about
from cdk_inference.events.patterns import RETRAINING
from cdk_inference.retraining.label_intake import LabelIntake
from cdk_inference.retraining.reasons import start_by_rule
from cdk_inference.retraining.workflow import BUDGET, RetrainingWorkflow
from cdk_inference.stages.stage_code import read_lines
from cdk_inference.storage import encryption
from inference_runtime.retraining import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.pipeline.execution_strategy import WorkflowLogs
    from cdk_inference.retraining.jobs import RetrainingJob
    from cdk_inference.retraining.reasons import RetrainingReason
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import IS3Trigger

RetrainingStatus = Literal["DEPLOYED", "DELIVERED", "REFUSED", "FAILED", "OVER_BUDGET"]

_LONGEST_JOB = 7 * 24 * 3600
_LEAST_CLASSES = 2
_NEXT_MONTH = events.Schedule.cron(day="1", hour="0", minute="20")
"""After the end of any execution that found the budget of the old month used: the steps up to there take minutes."""


@check_props
class Retraining(Construct):
    """Trains a model again with new labels, and takes it out if it passes its gate; made by `pipeline.add_retraining`.

    Labels → workflow → training job → weights with their SHA-256 → build job, with the gate of the recipe → registry →
    deployment job. The outcome of a run is an event and a record. A model that fails the gate is not deployed.

    Parameters
    ----------
    trigger, results
        The objects of the pipeline, and what its models said of them.
    classes, training, build, deployment, when, max_runs_per_month, job_timeout, held_out, salt,
    event_bus
        See `InferencePipeline.add_retraining`.
    functions, workflows
        Common props of functions and workflows.

    Attributes
    ----------
    intake
        The intake of labels: its bucket, tables and function.
    workflow
        The state machine, with its functions.
    event_bus
        Where events go.

    Raises
    ------
    PropError
        There are too few classes or a class twice, no reason to retrain, or two of new labels. Or a number or a
        duration is out of range, or the workflow could not wait for the end of a job.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        trigger: IS3Trigger,
        results: IResultsTable,
        classes: Sequence[str] | Path,
        training: RetrainingJob,
        build: RetrainingJob,
        deployment: RetrainingJob,
        when: Sequence[RetrainingReason],
        max_runs_per_month: int = 4,
        job_timeout: Duration | None = None,
        held_out: float = 0.2,
        salt: str = "",
        event_bus: events.IEventBus | None = None,
        functions: FunctionOptions,
        workflows: WorkflowLogs,
    ) -> None:
        super().__init__(scope, id)
        names = read_lines(classes, "classes") if isinstance(classes, Path) else list(classes)
        check(len(names) >= _LEAST_CLASSES, "classes", "two or more names", len(names))
        check(len(set(names)) == len(names), "classes", "different names", ", ".join(sorted(names))[:100])
        check_at_least(1, max_runs_per_month=max_runs_per_month)
        check(0 <= held_out < 1, "held_out", "a share, from 0 to below 1", held_out)
        timeout = job_timeout if job_timeout is not None else Duration.hours(2)
        if timeout.is_unresolved():
            raise PropError("job_timeout must be known at synth, since the lock expires after it, got a token")
        seconds("job_timeout", timeout, least=60, most=_LONGEST_JOB)
        for name, job in (("training", training), ("build", build)):
            check(job.waits, name, "one of TrainingJob, whose end the workflow waits for", type(job).__name__)
        new_labels = _new_labels(when)
        self._key = key = workflows["encryption_key"]
        self._max_runs, self._job_timeout = max_runs_per_month, timeout
        self.event_bus = bus_of(self, event_bus)
        self.intake = LabelIntake(
            self,
            "Intake",
            trigger=trigger,
            results=results,
            classes=names,
            new_labels=new_labels,
            encryption_key=key,
            removal_policy=workflows["log_removal_policy"],
            functions=functions,
        )
        self.workflow = RetrainingWorkflow(
            self,
            "Workflow",
            intake=self.intake,
            training=training,
            build=build,
            deployment=deployment,
            job_timeout=timeout,
            new_labels=new_labels,
            max_runs_per_month=max_runs_per_month,
            held_out=held_out,
            salt=salt,
            event_bus=self.event_bus,
            functions=functions,
            workflows=workflows,
        )
        encryption.grant_executions(self.workflow.state_machine, key, self.intake.function)
        self.intake.start(self.workflow.state_machine.state_machine_arn)
        self._grant_jobs(trigger, training=training, build=build, deployment=deployment)
        self._bind(when)
        add_metadata(
            self.workflow.state_machine,
            "retraining",
            # The inbox of a pipeline is its "bucket".
            retraining_bucket=self.intake.bucket.bucket_name,
            runs_table=self.intake.runs.table_name,
            registry_prefix=layout.MODELS,
        )

    def _grant_jobs(
        self, trigger: IS3Trigger, *, training: RetrainingJob, build: RetrainingJob, deployment: RetrainingJob
    ) -> None:
        bucket = self.intake.bucket
        read, write = "s3:GetObject", "s3:PutObject"
        models = f"{layout.MODELS}/"
        # Training must not be able to write what the build says, nor the registry.
        rights = {
            "training": (training, {read: [layout.LABEL_SETS], write: [layout.WEIGHTS]}),
            "build": (build, {read: [layout.LABEL_SETS, layout.WEIGHTS, models], write: [layout.BUILDS, models]}),
            "deployment": (deployment, {read: [models]}),
        }
        for name, (job, folders) in rights.items():
            grantee = job.grantee
            if grantee is None:
                continue
            for action, which in folders.items():
                encryption.grant(self._key, grantee, encryption.ENCRYPT if action == write else encryption.DECRYPT)
                arns = [bucket.arn_for_objects(f"{folder}*") for folder in which]
                iam.Grant.add_to_principal(grantee=grantee, actions=[action], resource_arns=arns)
            # Without it, S3 answers 403 rather than 404 for an object that is not there.
            iam.Grant.add_to_principal(grantee=grantee, actions=["s3:ListBucket"], resource_arns=[bucket.bucket_arn])
            if name != "deployment":
                trigger.grant_read(grantee)

    def _bind(self, when: Sequence[RetrainingReason]) -> None:
        machine = self.workflow.state_machine
        about = described(f"starts {self.node.path}", ROLE)
        role = iam.Role(self, "EventsRole", assumed_by=events_principal(Stack.of(self)), description=about)
        encryption.grant_executions(machine, self._key, role)
        machine.grant_start_execution(role)
        for number, reason in enumerate(when):
            reason.bind(self, f"Reason{number}", machine, role)
        start_by_rule(self, "NextMonth", machine, role, why=BUDGET, schedule=_NEXT_MONTH)
        acknowledgments.policy_of(role)

    @property
    def registry(self) -> str:
        """The address of the registry, as `ModelArtifact.from_registry` takes it."""
        return f"s3://{self.intake.bucket.bucket_name}/{layout.MODELS}"

    def max_usd_per_month(self, usd_per_minute: float) -> float:
        """Return what the jobs of a month cost at most, in USD: all runs of the budget, with three jobs of full length.

        Parameters
        ----------
        usd_per_minute
            The price of a minute of what the jobs run on.
        """
        check_at_least(0, usd_per_minute=usd_per_minute)
        return self._max_runs * 3 * self._job_timeout.to_minutes(integral=False) * usd_per_minute

    def grant_label(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee label objects: invoke the function, or put files under ``labels/`` in the bucket."""
        return self.intake.grant_label(grantee)

    def grant_start(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee start runs and see what became of them, as the command line does."""
        machine = self.workflow.state_machine
        encryption.grant_executions(machine, self._key, grantee)
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        return machine.grant_start_execution(grantee).combine(
            self.intake.runs.grant(grantee, "dynamodb:GetItem", "dynamodb:Scan")
        )

    def on_outcome(
        self,
        id: str,
        *,
        target: events.IRuleTarget | None = None,
        statuses: Sequence[RetrainingStatus] = (),
        event_pattern: events.EventPattern | None = None,
        description: str | None = None,
        rule_name: str | None = None,
    ) -> events.Rule:
        """Send an event to a target for what became of a run.

        The event has the run, the status with its reason, who started it, and how many labels it has. It also has the
        SHA-256 of the weights, and the model and version in the registry. An event may come twice, with the same
        ``event_id``.

        Parameters
        ----------
        id
            The id of the rule.
        target
            The target of the events, such as ``aws_events_targets.SnsTopic(topic)``. Default: none yet.
        statuses
            ``"DEPLOYED"``, ``"DELIVERED"``, ``"REFUSED"``, ``"FAILED"`` and ``"OVER_BUDGET"``. Default: all.
        event_pattern
            More conditions on the event. Default: none.
        description, rule_name
            As those of CDK's rules. Default: none, and CloudFormation makes a name.

        Raises
        ------
        PropError
            A status does not exist.
        """
        for status in statuses:
            check_choice(get_args(RetrainingStatus), statuses=status)
        return rule_about(
            self,
            id,
            detail_type=RETRAINING,
            detail={"status": statuses},
            event_bus=self.event_bus,
            target=target,
            event_pattern=event_pattern,
            description=description,
            rule_name=rule_name,
        )

    def check_bus(self, event_bus: events.IEventBus) -> None:
        """Refuse a bus that is not that of the events, such as that of an audit log.

        Raises
        ------
        PropError
            It is another one.
        """
        check_same_bus(self.event_bus, event_bus)

    def metric_rejected_labels(self, **options: Any) -> cloudwatch.Metric:
        """Count the labels that were refused, as a sum over 5 minutes."""
        return cloudwatch.Metric(
            **{
                "namespace": "cdk-inference",
                "metric_name": "RejectedLabels",
                "dimensions_map": {"pipeline": metrics_name(self)},
                "statistic": cloudwatch.Stats.SUM,
                "period": Duration.minutes(5),
                **options,
            }
        )


def _new_labels(when: Sequence[RetrainingReason]) -> int | None:
    check(len(when) > 0, "when", "one or more reasons", "none")
    counts = [reason.new_labels for reason in when if reason.new_labels is not None]
    check(len(counts) <= 1, "when", "reasons of which one at most is RetrainOn.new_labels", f"{len(counts)} of them")
    return counts[0] if counts else None
