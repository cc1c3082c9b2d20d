"""The trigger for Kinesis: each record of a data stream is an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes

from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.storage import encryption
from cdk_inference.triggers.pipe_source import PipeSource
from cdk_inference.triggers.queue import checked_path
from cdk_inference.triggers.stream import RECORD, IStreamTrigger, reading

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kinesis as kinesis
    from aws_cdk import aws_kms as kms
    from constructs import Construct


@check_props
class KinesisTrigger(IStreamTrigger):
    """Start a workflow with the records of a Kinesis data stream, in batches; each record is an item.

    Stream → EventBridge pipe. The data of a record is what the preprocessing gets as the bytes of an object. Data that
    is JSON is written anew on its way, without white space between its members.

    A row says in its attribute ``bucket`` where its item comes from, ``kinesis:`` and the name of the stream, and in
    ``key`` the id of the item. Records with the same id share a row: the one with the highest sequence number has it,
    whichever is scored first. Records with the same partition key are scored in their order.

    Parameters
    ----------
    stream
        The stream.
    item_id
        Where in data of JSON the id of its item is, such as ``"$.user.id"``, or `PARTITION_KEY`. Default: the ids of
        the shard and the record, so that each record is another item.
    encryption_key
        Customer managed key of the dead letters and the log group. Default: that of the stream, or AWS encrypts with
        its own.
    batch_size
        Most records the workflow gets at once, 1 to 32. All of a batch must fit into the input of a workflow, 256 KiB.
        Default: 10.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds. Default: 1 second.
    parallelization_factor
        Batches of a shard that are scored at the same time, 1 to 10. The order of each partition key stays. Default: 1.
    max_record_age
        How old a record may be before the pipe gives it up, 1 minute to 7 days. Default: 12 hours, half the time for
        which a stream keeps records by default.
    max_retry_attempts
        Times that the pipe tries a batch again before it gives it up, 0 to 10,000. Default: until `max_record_age`.
    starting_position
        Where a new pipe begins: ``"TRIM_HORIZON"`` for all that the stream still has, ``"LATEST"`` for what comes from
        then on, which may miss records of the first minutes. Default: ``"TRIM_HORIZON"``.
    log_retention
        The retention of the pipe's log group. Default: one month.
    removal_policy
        The policy of the log group. Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    stream, dead_letter_queue, undelivered_queue, log_group
        The parts.

    Raises
    ------
    PropError
        A prop is out of range, or a path is none. Or the stream is in another account or Region.
    """

    PARTITION_KEY: ClassVar[str] = "partition key"
    """Value of `item_id` for items that are identified by the partition key of their records."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stream: kinesis.IStream,
        item_id: str | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = 10,
        max_batching_window: Duration | None = None,
        parallelization_factor: int = 1,
        max_record_age: Duration | None = None,
        max_retry_attempts: int | None = None,
        starting_position: str = "TRIM_HORIZON",
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._reading = reading(
            batch_size=batch_size,
            max_batching_window=max_batching_window,
            parallelization_factor=parallelization_factor,
            max_record_age=max_record_age,
            max_retry_attempts=max_retry_attempts,
            starting_position=starting_position,
        )
        self._item_id = item_id if item_id == self.PARTITION_KEY else checked_path("item_id", item_id)
        check_environment(
            self, "stream", stream, fix="move the pipeline there, or let a function there forward records"
        )
        self.stream, self.batch_size = stream, batch_size
        key = encryption_key if encryption_key is not None else stream.encryption_key
        self._create_parts(key=key, log_retention=log_retention, removal_policy=removal_policy)

    @property
    def source(self) -> str:
        """``kinesis:`` and the name of the stream."""
        return f"kinesis:{self.stream.stream_name}"

    @property
    def _pipe_source(self) -> PipeSource:
        match self._item_id:
            case None:
                item_id = "$.eventID"
            case self.PARTITION_KEY:
                item_id = "$.partitionKey"
            case path:
                item_id = f"$.data{path.removeprefix('$')}"
        return PipeSource(
            arn=self.stream.stream_arn,
            kind="stream",
            contents="records",
            statements=[
                iam.PolicyStatement(
                    actions=[
                        "kinesis:DescribeStream",
                        "kinesis:DescribeStreamSummary",
                        "kinesis:GetRecords",
                        "kinesis:GetShardIterator",
                        "kinesis:ListShards",
                    ],
                    resources=[self.stream.stream_arn],
                ),
                *self._statements,
            ],
            key=self.stream.encryption_key,
            parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                kinesis_stream_parameters=pipes.CfnPipe.PipeSourceKinesisStreamParametersProperty(**self._parameters)
            ),
            # No quotes around what a sender chooses: pipes add them, and escape what is in between.
            message=f'{RECORD}, "body": <$.data>, "item": {{"source": "<aws.pipes.source-arn>", "id": <{item_id}>, '
            '"sequence": "<$.sequenceNumber>", "time": "<$.approximateArrivalTimestamp>", '
            '"partition_key": <$.partitionKey>, "encoding": "base64"}',
        )

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put records into the stream."""
        encryption.grant(self.stream.encryption_key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["kinesis:PutRecord", "kinesis:PutRecords"],
            resource_arns=[self.stream.stream_arn],
        )

    def metric_iterator_age(self, **options: Any) -> cloudwatch.Metric:
        """Measure the age in milliseconds of what was read last from the stream, the maximum over 5 minutes.

        The metric is of all that read the stream, other consumers included.
        """
        from aws_cdk import aws_cloudwatch as cloudwatch  # noqa: PLC0415 - for who asks

        return cloudwatch.Metric(
            **{
                "namespace": "AWS/Kinesis",
                "metric_name": "GetRecords.IteratorAgeMilliseconds",
                "dimensions_map": {"StreamName": self.stream.stream_name},
                "statistic": cloudwatch.Stats.MAXIMUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def age_metric(self) -> cloudwatch.IMetric:
        """Return the age in seconds of what was read last from the stream."""
        from aws_cdk import aws_cloudwatch as cloudwatch  # noqa: PLC0415 - for who asks

        return cloudwatch.MathExpression(
            expression="age / 1000",
            using_metrics={"age": self.metric_iterator_age()},
            label="seconds",
            period=Duration.minutes(5),
        )
