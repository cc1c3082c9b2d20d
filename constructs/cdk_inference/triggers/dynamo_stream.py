"""The trigger for tables: each new or changed item of a DynamoDB table is an item of the pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes

from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.triggers.pipe_source import PipeSource
from cdk_inference.triggers.stream import RECORD, IStreamTrigger, reading

if TYPE_CHECKING:
    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.storage.results import IResultsTable

_WRITTEN = json.dumps({"eventName": ["INSERT", "MODIFY"]})
_NEW_IMAGES = ("NEW_IMAGE", "NEW_AND_OLD_IMAGES")
_FIX = "set stream=StreamViewType.NEW_IMAGE on the table"


@check_props
class DynamoStreamTrigger(IStreamTrigger):
    """Start a workflow with the items of a DynamoDB table as they are written, in batches.

    Stream of the table → EventBridge pipe. The preprocessing gets an item as plain JSON: numbers as numbers, sets as
    lists, and bytes in base64. Items that are deleted start nothing.

    A row says in its attribute ``bucket`` where its item comes from, ``dynamodb:`` and the name of the table, and in
    ``key`` the key of the item: its value, or JSON with both values of a composite key. The last write of an item has
    the row, whichever is scored first. Writes of the same item are scored in their order.

    Parameters
    ----------
    table
        The table, whose stream must have new images. An imported table must have its ``table_stream_arn``.
    encryption_key
        Customer managed key of the dead letters and the log group. Default: that of the table, or AWS encrypts with
        its own.
    batch_size
        Most writes the workflow gets at once, 1 to 32. All of a batch must fit into the input of a workflow, 256 KiB.
        Default: 10.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds. Default: 1 second.
    parallelization_factor
        Batches of a shard that are scored at the same time, 1 to 10. The order of each item stays. Default: 1.
    max_record_age
        How old a write may be before the pipe gives it up, 1 minute to 7 days. Default: 12 hours, half the time for
        which a stream keeps it.
    max_retry_attempts
        Times that the pipe tries a batch again before it gives it up, 0 to 10,000. Default: until `max_record_age`.
    starting_position
        Where a new pipe begins: ``"TRIM_HORIZON"`` for all that the stream still has, ``"LATEST"`` for what is written
        from then on, which may miss writes of the first minutes. Default: ``"TRIM_HORIZON"``.
    log_retention
        The retention of the pipe's log group. Default: one month.
    removal_policy
        The policy of the log group. Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    table, dead_letter_queue, undelivered_queue, log_group
        The parts.

    Raises
    ------
    PropError
        A prop is out of range. Or the table has no stream with new images, or is in another account or Region.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        table: dynamodb.ITable,
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
        check_environment(self, "table", table, fix="move the pipeline there, or replicate the table")
        self._stream_arn = _stream_of(table)
        self.table, self.batch_size = table, batch_size
        key = encryption_key if encryption_key is not None else table.encryption_key
        self._create_parts(key=key, log_retention=log_retention, removal_policy=removal_policy)

    @property
    def source(self) -> str:
        """``dynamodb:`` and the name of the table."""
        return f"dynamodb:{self.table.table_name}"

    @property
    def _pipe_source(self) -> PipeSource:
        return PipeSource(
            arn=self._stream_arn,
            kind="stream",
            contents="records",
            statements=[
                iam.PolicyStatement(
                    actions=["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
                    resources=[self._stream_arn],
                ),
                *self._statements,
            ],
            key=self.table.encryption_key,
            parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                dynamo_db_stream_parameters=pipes.CfnPipe.PipeSourceDynamoDBStreamParametersProperty(
                    **self._parameters
                ),
                filter_criteria=pipes.CfnPipe.FilterCriteriaProperty(
                    filters=[pipes.CfnPipe.FilterProperty(pattern=_WRITTEN)]
                ),
            ),
            message=f'{RECORD}, "body": <$.dynamodb.NewImage>, "item": {{"source": "<aws.pipes.source-arn>", '
            '"keys": <$.dynamodb.Keys>, "sequence": "<$.dynamodb.SequenceNumber>", '
            '"time": "<$.dynamodb.ApproximateCreationDateTime>", "encoding": "dynamodb"}',
        )

    def check_results(self, results: IResultsTable) -> None:
        """Refuse a table of results whose rows would be items again.

        Raises
        ------
        PropError
            It is the table of the trigger.
        """
        if results.table.table_arn == self.table.table_arn:
            raise PropError(
                f"results must not be the table of {self.node.path}, whose rows would start the pipeline again and "
                "again; use another table"
            )

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee write items into the table."""
        encryption.grant(self.table.encryption_key, grantee, encryption.TABLE)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["dynamodb:BatchWriteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"],
            resource_arns=[self.table.table_arn],
        )


def _stream_of(table: dynamodb.ITable) -> str:
    """Return the ARN of a table's stream, if it has new images as far as this app knows."""
    resource = table.node.default_child
    if isinstance(resource, dynamodb.CfnTable):  # CDK decides about a TableV2 only when it writes the template
        view = getattr(resource.stream_specification, "stream_view_type", None)
        if view not in _NEW_IMAGES:
            raise PropError(f"table must have a stream with new images, got {view or 'none'}; {_FIX}")
    if table.table_stream_arn is None:
        raise PropError(
            f"table must have a stream, got {table.node.path} without the ARN of one; import it with table_stream_arn"
        )
    return table.table_stream_arn
