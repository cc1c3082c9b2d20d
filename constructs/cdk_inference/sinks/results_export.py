"""The export of results: Parquet files of each hour, for Athena and whatever else reads Parquet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Unpack

from aws_cdk import Duration, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_scheduler as scheduler
from aws_cdk.aws_lambda_destinations import SqsDestination
from constructs import Construct

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.descriptions import ROLE, SCHEDULE, described
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket
from cdk_inference.storage.queues import last_resort
from cdk_inference.storage.results import index_name

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms

    from cdk_inference.storage.results import IResultsTable

_TIME = "<aws.scheduler.scheduled-time>"
_MINUTE = 20
"""Minutes after a window's end at which it is exported: a row is written within 15, the longest that Lambda runs."""

_HOUR, _DAY = 3_600, 86_400
_PREFIX = re.compile(r"([A-Za-z0-9_.-]+/){1,16}")


@check_props
class ResultsExport(Construct):
    """Writes the rows of each hour to S3 as Parquet, for Athena, pandas, DuckDB and others.

    EventBridge schedule → function → ``results/day=YYYY-MM-DD/hour=HH/part-N.parquet``. The function reads the rows
    that were recorded in the last window, 20 minutes after its end, by the table's index of statuses. A file has up to
    about 64 MB. The function has a row group of it in memory, and up to 30 rows. The files of a window always have the
    same names. So another run replaces them, and removes those that it does not write.

    All files have the same columns, whatever the model predicts: the prediction is JSON. A row that a later result
    replaces may be in the files of two windows; the one with the larger ``recorded_at`` counts.

    A run that fails three times is kept in a dead-letter queue for 14 days, with the time that it was for.

    Parameters
    ----------
    results
        The table, which has the index ``"status"``.
    bucket
        Where the files go. Default: a new bucket, which is retained.
    prefix
        The folder of the files in the bucket. Exports that share a bucket need one each. Default: ``results/``.
    window
        The length of a window: whole hours that divide a day. Windows begin at midnight, UTC. Default: 1 hour.
    memory_size
        MiB. Default: 1,769.
    removal_policy
        The policy of the new bucket. Default: RETAIN, see `data_removal_policy`.
    **options
        As those of `StageFunction`. The `encryption_key` is that of the new bucket and of the schedule too.

    Attributes
    ----------
    bucket, function, schedule, dead_letter_queue
        The parts.

    Raises
    ------
    PropError
        The table has no index of statuses, or the bucket is in another Region. Or the prefix is not a folder, or the
        window does not divide a day.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        results: IResultsTable,
        bucket: s3.IBucket | None = None,
        prefix: str = "results/",
        window: Duration | None = None,
        memory_size: int = 1769,
        removal_policy: RemovalPolicy | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        if "status" not in results.indexes:
            raise PropError(
                f"results must have the index 'status', got {list(results.indexes)}; add it with "
                'ResultsTable(indexes=["status"])'
            )
        _check_prefix(prefix)
        self._files = f"{prefix}*"
        hours = _hours(window if window is not None else Duration.hours(1))
        key = options.get("encryption_key")
        encryption.check_key(self, key)
        if key is not None:
            encryption.allow_logs(key, self)
        if bucket is None:
            bucket = private_bucket(
                self,
                "Bucket",
                key=key,
                removal_policy=removal_policy,
                versioned=True,
                lifecycle_rules=[s3.LifecycleRule(noncurrent_version_expiration=Duration.days(30))],
            )
            add_metadata(bucket, "export-bucket")
        else:
            check_environment(self, "bucket", bucket, account=False, fix="use a bucket of that Region")
        self.bucket = bucket
        self.dead_letter_queue = last_resort(self, "DeadLetterQueue", "failed-exports")
        self.function = StageFunction(
            self,
            "Function",
            package=ZipPackage(
                handler="inference_runtime.handlers.export_results.handler", runtime_requirements="split-parquet"
            ),
            environment={
                "RESULTS_TABLE": results.table.table_name,
                "STATUS_INDEX": index_name("status"),
                "EXPORT_BUCKET": bucket.bucket_name,
                "EXPORT_PREFIX": prefix,
                "WINDOW_HOURS": str(hours),
            },
            description=f"exports the rows of {results.node.path}",
            memory_size=memory_size,
            timeout=Duration.minutes(15),
            **options,
        )
        # Two ways to fail: Scheduler cannot invoke the function, or the function fails three times.
        self.function.target.configure_async_invoke(on_failure=SqsDestination(self.dead_letter_queue))
        self._allow_function(results)
        self.schedule = self._create_schedule(hours, key)

    def _allow_function(self, results: IResultsTable) -> None:
        results.grant_query(self.function)
        encryption.grant(self.bucket.encryption_key, self.function, encryption.ENCRYPT)
        iam.Grant.add_to_principal(
            grantee=self.function,
            actions=["s3:DeleteObject", "s3:PutObject"],
            resource_arns=[self.bucket.arn_for_objects(self._files)],
        )
        self._grant_list(self.function)
        acknowledgments.objects_under(self.function.role, self.bucket, self._files)

    def _create_schedule(self, hours: int, key: kms.IKey | None) -> scheduler.CfnSchedule:
        group = scheduler.CfnScheduleGroup(self, "Group")
        every = {1: "*", 24: "0"}.get(hours, f"0/{hours}")
        made = scheduler.CfnSchedule(
            self,
            "Schedule",
            schedule_expression=f"cron({_MINUTE} {every} * * ? *)",
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
            group_name=group.ref,
            kms_key_arn=None if key is None else key.key_arn,
            description=described(f"starts the export {self.node.path}", SCHEDULE),
            target=scheduler.CfnSchedule.TargetProperty(
                arn=self.function.target.function_arn,
                role_arn=self._create_role(group, key).role_arn,
                input=Stack.of(self).to_json_string({"time": _TIME}),
                dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(arn=self.dead_letter_queue.queue_arn),
            ),
        )
        add_metadata(made, "export-schedule")
        return made

    def _create_role(self, group: scheduler.CfnScheduleGroup, key: kms.IKey | None) -> iam.Role:
        """Create the role that the schedule invokes the function with."""
        role = iam.Role(
            self,
            "ScheduleRole",
            assumed_by=iam.ServicePrincipal(
                "scheduler.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": Stack.of(self).account, "aws:SourceArn": group.attr_arn}
                },
            ),
            description=described(f"starts the export {self.node.path}", ROLE),
        )
        self.function.grant_invoke(role)
        iam.Grant.add_to_principal(
            grantee=role, actions=["sqs:SendMessage"], resource_arns=[self.dead_letter_queue.queue_arn]
        )
        encryption.grant(key, role, encryption.DECRYPT)
        acknowledgments.policy_of(role)
        return role

    def _grant_list(self, grantee: iam.IGrantable) -> iam.Grant:
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:ListBucket"],
            resource_arns=[self.bucket.bucket_arn],
            conditions={"StringLike": {"s3:prefix": self._files}},
        )

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee list and read the files, and nothing else of the bucket."""
        encryption.grant(self.bucket.encryption_key, grantee, encryption.DECRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.bucket.arn_for_objects(self._files)]
        ).combine(self._grant_list(grantee))

    def metric_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the runs that were given up, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)


def _hours(window: Duration) -> int:
    value = seconds("window", window, least=_HOUR, most=_DAY)
    if value is None:
        raise PropError("window must be known at synth, got a token; use a number of hours")
    if value % _HOUR or _DAY % value:
        raise PropError(f"window must be whole hours that divide a day, got {value} s; use Duration.hours(1)")
    return value // _HOUR


def _check_prefix(prefix: str) -> None:
    if Token.is_unresolved(prefix) or not _PREFIX.fullmatch(prefix):
        raise PropError(
            f"prefix must be folders of letters, digits, '.', '-' and '_' that end in a slash, got '{prefix}'; use "
            "'results/'"
        )
