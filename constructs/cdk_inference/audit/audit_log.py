"""The audit log: a locked bucket, and the function that writes events into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from aws_cdk import Aws, CustomResource, Duration, RemovalPolicy
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.audit.log_target import LogTarget
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.events.patterns import RESULT, SOURCE
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.triggers.base import IS3Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import aws_cloudtrail as cloudtrail
    from aws_cdk import aws_cloudwatch as cloudwatch

    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.pipeline.operated import OperatedPipeline

RECORDS = "records/*"
DEPLOYMENT = "Deployment"
"""The type of the record of a deployment."""

_RECORDED = "Custom::RecordedModels"
_RECORDING_LIMIT = Duration.minutes(10)  # Lambda tries three times, within three minutes

_BATCH_SIZE = 1000
_TIMEOUT = Duration.minutes(1)
_MAX_RECEIVE_COUNT = 10
_DEPLOYED = ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]


@check_props
class AuditLog(Construct):
    """Keeps answers of pipelines, and decisions about their models, in files that nobody can change or delete.

    Rules → queue → function → bucket with Object Lock. A record of an answer has the object's version, the model's
    version, status, route and times. It also has hashes of the object's name and of the answer: HMAC-SHA-256 with a
    secret of the log. Whoever knows the object and may read the secret finds its records; nobody else can tell whom a
    record is about. Deleting the secret anonymizes the log, where a law asks for that.

    Give it to pipelines with `pipeline.audit`. Records come at least once: copies have the same ``record``.
    CloudFormation asks the function for a record when a deployment changes a model, and waits for it.

    Parameters
    ----------
    retention
        The time for which S3 refuses to delete or to change a file, at least a day. Default: 365 days. The EU's AI Act
        asks those who use high-risk systems for six months or more (Regulation (EU) 2024/1689, article 26(6)).
    compliance_mode
        Whether nobody may shorten the retention, not even the account's root. Default: governance mode, in which
        whoever has ``s3:BypassGovernanceRetention`` may.
    max_batching_window
        The longest time to wait for a file to fill up, 1 to 300 seconds. Default: 60 seconds.
    trail
        A trail that records who puts or deletes objects, for the inbox and prefix of each pipeline of the log, five at
        most. Its data events cost 1.00 USD per million. Default: nobody records that.
    **options
        As those of `StageFunction`. The `encryption_key` is that of the files too. Default: a new key, which rotates.

    Attributes
    ----------
    bucket, queue, dead_letter_queue, function, secret
        The parts.

    Raises
    ------
    PropError
        A duration is out of range.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        retention: Duration | None = None,
        compliance_mode: bool = False,
        max_batching_window: Duration | None = None,
        trail: cloudtrail.Trail | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        kept = retention if retention is not None else Duration.days(365)
        window = max_batching_window if max_batching_window is not None else Duration.seconds(60)
        if not kept.is_unresolved():
            days = kept.to_days(integral=False)
            if days < 1 or days % 1:
                raise PropError(f"retention must be whole days, 1 or more, got {days:g} days; use Duration.days(365)")
        seconds("max_batching_window", window, least=1, most=300)
        removal = data_removal_policy(self, None)
        key = options.get("encryption_key")
        if key is None:
            key = encryption.create_key(self, "Key", removal_policy=removal)
            encryption.allow_logs(key, self)
            options = {**options, "encryption_key": key}
        else:
            encryption.check_key(self, key)
        self._key, self._trail = key, trail
        lock = s3.ObjectLockRetention.compliance if compliance_mode else s3.ObjectLockRetention.governance
        self.bucket = private_bucket(
            self,
            "Bucket",
            key=key,
            removal_policy=None,
            versioned=True,
            object_lock_enabled=True,
            object_lock_default_retention=lock(kept),
            lifecycle_rules=[s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(7))],
        )
        # The L2 would let the account use the key by wildcards.
        self.secret = secretsmanager.CfnSecret(
            self,
            "Secret",
            description="hashes the names of objects and the answers in an audit log",
            kms_key_id=key.key_arn,
            generate_secret_string=secretsmanager.CfnSecret.GenerateSecretStringProperty(
                password_length=64, exclude_punctuation=True
            ),
        )
        self.secret.apply_removal_policy(removal)
        acknowledgments.explain(self.secret, "secret-of-an-audit-log")
        self.dead_letter_queue = _queue(self, "DeadLetterQueue")
        self.queue = _queue(
            self,
            "Queue",
            visibility_timeout=Duration.seconds(6 * int(_TIMEOUT.to_seconds())).plus(window),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letter_queue, max_receive_count=_MAX_RECEIVE_COUNT),
        )
        acknowledgments.explain(self.dead_letter_queue, "dead-letter-queue")
        self.function = StageFunction(
            self,
            "Writer",
            package=ZipPackage(
                handler="inference_runtime.handlers.audit.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
            ),
            # The ARN, which is also that of Ref; the embedded AWS takes Ref for the name.
            environment={"AUDIT_BUCKET": self.bucket.bucket_name, "AUDIT_SECRET": self.secret.attr_id},
            description=f"writes the audit log {self.node.path}",
            memory_size=256,
            timeout=_TIMEOUT,
            **options,
        )
        self._allow_writer()
        mapping = lambda_.EventSourceMapping(
            self,
            "Mapping",
            target=self.function.target,
            event_source_arn=self.queue.queue_arn,
            batch_size=_BATCH_SIZE,
            max_batching_window=window,
            report_batch_item_failures=True,
        )
        acknowledgments.explain(mapping, "mapping-of-a-queue")
        add_metadata(self.bucket, "audit-log", secret=self.secret.ref, log=self.node.path)

    def _allow_writer(self) -> None:
        encryption.grant(self._key, self.function, encryption.ENCRYPT)
        iam.Grant.add_to_principal(
            grantee=self.function, actions=["s3:PutObject"], resource_arns=[self.bucket.arn_for_objects(RECORDS)]
        )
        iam.Grant.add_to_principal(
            grantee=self.function,
            actions=["secretsmanager:GetSecretValue"],
            resource_arns=[self.secret.attr_id],
        )
        self.queue.grant_consume_messages(self.function.role)
        acknowledgments.objects_under(self.function.role, self.bucket, RECORDS)

    def target(self, pipeline: Construct) -> events.IRuleTarget:
        """Return the target of a rule whose events are about a pipeline. The rule may be in another stack."""
        return self._target({"pipeline": metrics_name(pipeline), "event": events.EventField.from_path("$")})

    def follow(
        self, pipeline: OperatedPipeline, id: str, *, models: Mapping[str, ModelArtifact], event_bus: events.IEventBus
    ) -> None:
        """Record the deployments of a pipeline, the changes of its models, and the decisions that are events.

        Parameters
        ----------
        pipeline
            The pipeline.
        id
            The id of the construct that has the rules.
        models
            Its models, by route.
        event_bus
            The bus with events of this library. Those that name the pipeline in their detail are recorded whole.
        """
        scope, name = Construct(pipeline, id), metrics_name(pipeline)
        events.Rule(
            scope,
            "Decisions",
            description="records what was decided about a pipeline",
            event_bus=event_bus,
            event_pattern=events.EventPattern(
                source=[SOURCE],
                detail_type=events.Match.anything_but(RESULT),
                detail={"pipeline": [name]},
            ),
            targets=[self.target(pipeline)],
        )
        detail = {
            "models": {route: model.version for route, model in models.items()},
            "stack": events.EventField.from_path("$.detail.stack-id"),
            "status": events.EventField.from_path("$.detail.status-details.status"),
        }
        event = {"id": events.EventField.event_id, "time": events.EventField.time, "detail-type": DEPLOYMENT}
        events.Rule(
            scope,
            "Deployments",
            description="records the deployments of a pipeline, with its models",
            event_pattern=events.EventPattern(
                source=["aws.cloudformation"],
                detail_type=["CloudFormation Stack Status Change"],
                detail={"stack-id": [Aws.STACK_ID], "status-details": {"status": _DEPLOYED}},
            ),
            targets=[self._target({"pipeline": name, "event": {**event, "detail": detail}})],
        )
        self._record_models(scope, name, models)
        if self._trail is not None:
            from aws_cdk import aws_cloudtrail as cloudtrail  # noqa: PLC0415 - only for those who ask

            inbox = pipeline.trigger
            if not isinstance(inbox, IS3Trigger):
                raise PropError(
                    f"trail must be of pipelines for objects, got {name} with messages; CloudTrail does not "
                    "record who sends them"
                )
            self._trail.add_s3_event_selector(
                [cloudtrail.S3EventSelector(bucket=inbox.bucket, object_prefix=inbox.prefix)],
                read_write_type=cloudtrail.ReadWriteType.WRITE_ONLY,
            )

    def _record_models(self, scope: Construct, name: str, models: Mapping[str, ModelArtifact]) -> None:
        """Have CloudFormation ask the writer for a record when a deployment changes a model: it knows the old one."""
        facts = {
            route: {"model": model.manifest.name, "version": model.version, "artifact": model.asset_hash}
            for route, model in models.items()
        }
        change = CustomResource(
            scope,
            "Models",
            resource_type=_RECORDED,
            service_token=self.function.target.function_arn,
            service_timeout=_RECORDING_LIMIT,
            properties={"Pipeline": name, "Models": facts},
            removal_policy=RemovalPolicy.RETAIN,  # there is nothing to delete
        )
        change.node.add_dependency(self.function)  # with its rights

    def _target(self, message: Mapping[str, object]) -> events.IRuleTarget:
        target: events.IRuleTarget = LogTarget(
            self.queue, self.dead_letter_queue, events.RuleTargetInput.from_object(message)
        )
        return target

    def grant_query(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read all records, and find those of an object by its name."""
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        return (
            iam.Grant.add_to_principal(
                grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.bucket.arn_for_objects(RECORDS)]
            )
            .combine(
                iam.Grant.add_to_principal(
                    grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
                )
            )
            .combine(
                iam.Grant.add_to_principal(
                    grantee=grantee,
                    actions=["secretsmanager:GetSecretValue"],
                    resource_arns=[self.secret.attr_id],
                )
            )
        )

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the events that are not in the log, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)

    def metric_oldest_message_age(self, **options: Any) -> cloudwatch.Metric:
        """Measure the age in seconds of the oldest event that waits, the maximum over 5 minutes."""
        return self.queue.metric_approximate_age_of_oldest_message(**options)


def _queue(scope: Construct, id: str, **options: Any) -> sqs.Queue:
    # A rule's right to send under a customer managed key would be one of all accounts.
    return sqs.Queue(
        scope,
        id,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=Duration.days(14),
        **options,
    )
