"""How labels come in: files in a bucket, a function that checks them, and a table next to the results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from aws_cdk import Duration
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.stages.base import StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.tables import private_table
from inference_runtime.retraining import layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms

    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import IS3Trigger

RECORD = "record"
"""The key of the table of runs."""

_MAX_FILE_BYTES = 1_000_000
"""Up to 25,000 labels, as short as they can be. Each is looked up by itself, and all of them within the timeout."""

_TIMEOUT = Duration.minutes(10)
_MAX_RECEIVE_COUNT = 10
_NONCURRENT_DAYS = 90


@check_props
class LabelIntake(Construct):
    """Takes labels for objects that were scored, and keeps those that can be right.

    Bucket → rule → queue → function → table. Whoever may invoke the function gets its answer at once.

    Parameters
    ----------
    trigger, results
        The objects, and what the models said of them.
    classes
        The names that labels may have.
    new_labels
        The number of new labels that starts a run; None if they start none.
    encryption_key
        The key of bucket and tables.
    removal_policy
        The policy of bucket and tables.
    functions
        Common props of functions.

    Attributes
    ----------
    bucket
        Files with labels, the labels and weights of each run, and the registry.
    labels
        The table of labels, by the object that they are about.
    runs
        The table of runs, with the lock, the budget and the number of labels.
    function
        The function that takes labels.
    queue, dead_letter_queue
        The events of files with labels, and those that nobody could take.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        trigger: IS3Trigger,
        results: IResultsTable,
        classes: Sequence[str],
        new_labels: int | None,
        encryption_key: kms.IKey | None,
        removal_policy: RemovalPolicy | None,
        functions: FunctionOptions,
    ) -> None:
        super().__init__(scope, id)
        self._key = encryption_key
        self.bucket = self._create_bucket(removal_policy)
        removal = data_removal_policy(self, removal_policy)
        recovered = dynamodb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True)
        self.labels, self.runs = (
            private_table(
                self,
                name,
                key=encryption_key,
                partition_key=partition_key,
                point_in_time_recovery_specification=recovered,
                removal_policy=removal,
            )
            for name, partition_key in (("Labels", "object"), ("Runs", RECORD))
        )
        add_metadata(self.labels, "labels")
        self._new_labels = new_labels
        unreserved: FunctionOptions = {**functions, "reserved_concurrent_executions": None}
        self.function = StageFunction(
            self,
            "TakeLabels",
            package=ZipPackage(
                handler="inference_runtime.handlers.take_labels.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
                sources={"classes.json": json.dumps(list(classes)).encode()},
            ),
            environment={
                "BUCKET": trigger.bucket.bucket_name,
                "RESULTS_TABLE": results.table.table_name,
                "LABELS_TABLE": self.labels.table_name,
                "RUNS_TABLE": self.runs.table_name,
                "MAX_LABEL_BYTES": str(_MAX_FILE_BYTES),
            },
            description=f"takes labels for objects of {trigger.node.path}",
            memory_size=512,
            timeout=_TIMEOUT,
            **unreserved,
        )
        self._grant(results)
        self._listen()

    def _create_bucket(self, removal_policy: RemovalPolicy | None) -> s3.Bucket:
        bucket = private_bucket(
            self,
            "Bucket",
            key=self._key,
            removal_policy=removal_policy,
            versioned=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                    noncurrent_version_expiration=Duration.days(_NONCURRENT_DAYS),
                )
            ],
        )
        # The L2 prop would add a custom resource whose role has a wildcard (aws-cdk#24086).
        cast(
            "s3.CfnBucket", bucket.node.default_child
        ).notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )
        add_metadata(bucket, "retraining-bucket")
        return bucket

    def _grant(self, results: IResultsTable) -> None:
        function = self.function
        results.grant_look_up(function)
        encryption.grant(self._key, function, encryption.TABLE)
        self.labels.grant(function, "dynamodb:PutItem", "dynamodb:UpdateItem")
        self.grant_counter(function, "dynamodb:GetItem", "dynamodb:UpdateItem")
        rights = {layout.LABELS: ["s3:GetObject", "s3:GetObjectVersion"], layout.REJECTED: ["s3:PutObject"]}
        for folder, actions in rights.items():
            iam.Grant.add_to_principal(
                grantee=function, actions=actions, resource_arns=[self.bucket.arn_for_objects(f"{folder}*")]
            )
        acknowledgments.objects_under(function.role, self.bucket, f"{layout.LABELS}*", f"{layout.REJECTED}*")

    def _listen(self) -> None:
        self.dead_letter_queue = _dead_letter_queue(self)
        # A rule's right to send under a customer managed key would be one of all accounts.
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
            visibility_timeout=Duration.seconds(6 * int(_TIMEOUT.to_seconds())),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letter_queue, max_receive_count=_MAX_RECEIVE_COUNT),
        )
        events.Rule(
            self,
            "NewFiles",
            description="queues files with labels",
            event_pattern=events.EventPattern(
                source=["aws.s3"],
                detail_type=["Object Created"],
                detail={
                    "bucket": {"name": [self.bucket.bucket_name]},
                    "object": {"key": [{"prefix": layout.LABELS}]},
                },
            ),
            targets=[targets.SqsQueue(self.queue, dead_letter_queue=self.dead_letter_queue)],
        )
        self.queue.grant_consume_messages(self.function.role)
        mapping = lambda_.EventSourceMapping(
            self,
            "Mapping",
            target=self.function.target,
            event_source_arn=self.queue.queue_arn,
            batch_size=1,  # a file may take minutes
            max_concurrency=2,
            report_batch_item_failures=True,
        )
        acknowledgments.explain(mapping, "mapping-of-a-queue")

    def start(self, state_machine_arn: str) -> None:
        """Let the function start a run once there are enough labels, if they are a reason to.

        Parameters
        ----------
        state_machine_arn
            The workflow.
        """
        if self._new_labels is None:
            return
        self.function.add_variables({"NEW_LABELS": str(self._new_labels), "STATE_MACHINE": state_machine_arn})
        iam.Grant.add_to_principal(
            grantee=self.function, actions=["states:StartExecution"], resource_arns=[state_machine_arn]
        )

    def grant_counter(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Let the grantee use the record that counts labels, and no other of the table."""
        iam.Grant.add_to_principal(
            grantee=grantee,
            actions=list(actions),
            resource_arns=[self.runs.table_arn],
            conditions={"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [layout.COUNTER]}},
        )

    def grant_label(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee label objects: invoke the function, or put files under ``labels/`` in the bucket."""
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        return self.function.grant_invoke(grantee).combine(
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["s3:PutObject"],
                resource_arns=[self.bucket.arn_for_objects(f"{layout.LABELS}*")],
            )
        )


def _dead_letter_queue(scope: Construct) -> sqs.Queue:
    """Create the queue for events of files that nobody could take."""
    queue = sqs.Queue(
        scope,
        "DeadLetterQueue",
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=Duration.days(14),
    )
    acknowledgments.explain(queue, "dead-letter-queue")
    return queue
