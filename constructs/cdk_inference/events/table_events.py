"""Events for the writes to a table: the table's stream, and a pipe that puts them on a bus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_pipes as pipes
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.principals import pipes_principal
from cdk_inference.common.props.descriptions import PIPE, ROLE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.events.buses import bus_of
from cdk_inference.events.patterns import SOURCE
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group
from cdk_inference.storage.queues import last_resort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_events as events
    from aws_cdk import aws_kms as kms

_BATCH_SIZE = 10  # an event bus takes no more from a pipe at once
_RETRIES = 185  # as often as EventBridge itself tries to deliver to a target


@check_props
class TableEvents(Construct):
    """Puts an event on a bus for each write to a table: table stream → EventBridge pipe → event bus.

    The pipe delivers at least once: an event that comes again has the same ``event_id``. If the bus does not take an
    event in 185 tries, what the dead-letter queue gets names its place in the stream.

    Parameters
    ----------
    stream
        ARN of the table's stream, which has new images.
    table_arn
        ARN of the table, which events have in ``resources``.
    encryption_key
        The key of table and stream, if it is a customer managed one.
    about
        A verb and its objects, for descriptions of the pipe and its role.
    role
        The role of the pipe in the metadata of the template.
    detail_type
        The type of the events.
    input_template
        The template of ``detail``, as pipes take it.
    only
        A pattern of the stream's records that become events, besides ``eventName``.
    event_bus
        Where events go. Default: the default bus of the account and Region.

    Attributes
    ----------
    event_bus
        As given.
    pipe, dead_letter_queue
        The parts.

    Raises
    ------
    PropError
        The bus is in another account or Region.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stream: str,
        table_arn: str,
        encryption_key: kms.IKey | None,
        about: str,
        role: str,
        detail_type: str,
        input_template: str,
        only: Mapping[str, object] | None = None,
        event_bus: events.IEventBus | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._about = about
        self.event_bus = bus_of(self, event_bus)
        self.dead_letter_queue = last_resort(self, "DeadLetterQueue", "undelivered-events")
        self.log_group = log_group(self, key=encryption_key, removal_policy=None, folder=PIPE_LOGS)
        if encryption_key is not None:
            encryption.allow_logs(encryption_key, self)
        made = self._create_role(stream, encryption_key)
        self.pipe = pipes.CfnPipe(
            self,
            "Pipe",
            source=stream,
            target=self.event_bus.event_bus_arn,
            role_arn=made.role_arn,
            description=described(about, PIPE),
            log_configuration=pipes.CfnPipe.PipeLogConfigurationProperty(
                level="ERROR",
                cloudwatch_logs_log_destination=pipes.CfnPipe.CloudwatchLogsLogDestinationProperty(
                    log_group_arn=self.log_group.log_group_arn
                ),
            ),
            source_parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                dynamo_db_stream_parameters=pipes.CfnPipe.PipeSourceDynamoDBStreamParametersProperty(
                    # Rows that are written while the pipe is created are events too.
                    starting_position="TRIM_HORIZON",
                    batch_size=_BATCH_SIZE,
                    maximum_retry_attempts=_RETRIES,
                    dead_letter_config=pipes.CfnPipe.DeadLetterConfigProperty(arn=self.dead_letter_queue.queue_arn),
                ),
                filter_criteria=pipes.CfnPipe.FilterCriteriaProperty(
                    filters=[
                        pipes.CfnPipe.FilterProperty(
                            pattern=json.dumps({"eventName": ["INSERT", "MODIFY"], **(only or {})})
                        )
                    ]
                ),
            ),
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                input_template=input_template,
                event_bridge_event_bus_parameters=pipes.CfnPipe.PipeTargetEventBridgeEventBusParametersProperty(
                    source=SOURCE, detail_type=detail_type, resources=[table_arn]
                ),
            ),
        )
        for policy in made.node.children:  # the pipe checks its permissions when it is created
            self.pipe.node.add_dependency(policy)
        add_metadata(self.pipe, role)

    def _create_role(self, stream: str, key: kms.IKey | None) -> iam.Role:
        role = iam.Role(
            self,
            "PipeRole",
            assumed_by=pipes_principal(Stack.of(self)),
            description=described(self._about, ROLE),
            inline_policies={
                "Pipe": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=[
                                "dynamodb:DescribeStream",
                                "dynamodb:GetRecords",
                                "dynamodb:GetShardIterator",
                            ],
                            resources=[stream],
                        ),
                        iam.PolicyStatement(actions=["events:PutEvents"], resources=[self.event_bus.event_bus_arn]),
                        iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[self.dead_letter_queue.queue_arn]),
                    ]
                )
            },
        )
        encryption.grant(key, role, encryption.DECRYPT)
        self.log_group.grant_write(role)
        acknowledgments.explain(role, "inline-policy")
        acknowledgments.policy_of(role)
        return role

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the batches that the bus did not take, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)
