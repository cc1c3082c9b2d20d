"""An event for each row of a results table: the table's stream, and a pipe that puts it on a bus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.principals import pipes_principal
from cdk_inference.common.props.descriptions import PIPE, ROLE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.events.patterns import RESULT, SOURCE
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group

if TYPE_CHECKING:
    from aws_cdk import aws_cloudwatch as cloudwatch

    from cdk_inference.storage.results import IResultsTable

_ID = "Events"
_BATCH_SIZE = 10  # an event bus takes no more from a pipe at once
_RETRIES = 185  # as often as EventBridge itself tries to deliver to a target

ATTRIBUTES = (
    "id",
    "object",
    "version",
    "bucket",
    "key",
    "event_time",
    "status",
    "route",
    "variant",
    "model_version",
    "inference",
    "recorded_at",
    "answer_sha256",
)
"""The attributes of a row that its event has: neither the prediction nor the reason, which may quote the object."""

# In quotes, a path that leads nowhere is an empty string, and the event stays valid JSON.
_DETAIL = {"event_id": "<$.eventID>"} | {name: f"<$.dynamodb.NewImage.{name}.S>" for name in ATTRIBUTES}


@check_props
class ResultEvents(Construct):
    """Puts an event on a bus for each row that is written to a results table; made by `pipeline.on_result`.

    Table stream → EventBridge pipe → event bus. The stream is turned on, and keeps new rows for 24 hours, under the
    table's key. An event has the row's keys, its status, route, variant and model, and neither prediction nor reason.
    A replay that writes nothing makes no event, and nor does a row that expires.

    The pipe delivers at least once: an event that comes again has the same ``event_id``. If the bus does not take an
    event in 185 tries, what the dead-letter queue gets names its place in the stream.

    Parameters
    ----------
    results
        The table. An imported one must have its `table_stream_arn`.
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
        The stream of an imported table is not known, or the bus is in another account or Region.
    """

    def __init__(
        self, scope: Construct, id: str, *, results: IResultsTable, event_bus: events.IEventBus | None = None
    ) -> None:
        super().__init__(scope, id)
        if event_bus is not None:
            fix = "use a bus there, and let a rule forward what the other bus is to get"
            check_environment(self, "event_bus", event_bus, fix=fix)
        stream = results.enable_stream()
        self.event_bus: events.IEventBus = (
            event_bus if event_bus is not None else events.EventBus.from_event_bus_name(self, "DefaultBus", "default")
        )
        self.dead_letter_queue = sqs.Queue(
            self,
            "DeadLetterQueue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
            redrive_allow_policy=sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL),
        )
        add_metadata(self.dead_letter_queue, "undelivered-events")
        acknowledgments.explain(self.dead_letter_queue, "dead-letter-queue")
        self.log_group = log_group(self, key=results.encryption_key, removal_policy=None, folder=PIPE_LOGS)
        if results.encryption_key is not None:
            encryption.allow_logs(results.encryption_key, self)
        self.pipe = self._create_pipe(stream, results)

    @classmethod
    def of(cls, results: IResultsTable, event_bus: events.IEventBus | None = None) -> ResultEvents:
        """Return the events of a table, whichever of its pipelines asks first.

        Parameters
        ----------
        results
            The table.
        event_bus
            Where events go. Default: where they go already, or the default bus.

        Raises
        ------
        PropError
            The events of the table go to another bus.
        """
        made: ResultEvents | None = results.node.try_find_child(_ID)  # type: ignore[assignment]
        if made is None:
            return cls(results, _ID, results=results, event_bus=event_bus)
        if event_bus is not None and event_bus.node.path != made.event_bus.node.path:
            raise PropError(
                f"event_bus must be the same for all events of a table, got {event_bus.node.path} after "
                f"{made.event_bus.node.path}; let a rule there forward what the other bus is to get"
            )
        return made

    def _create_pipe(self, stream: str, results: IResultsTable) -> pipes.CfnPipe:
        stack = Stack.of(self)
        role = iam.Role(
            self,
            "PipeRole",
            assumed_by=pipes_principal(stack),
            description=described(f"puts the rows of {results.node.path} on an event bus", ROLE),
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
        encryption.grant(results.encryption_key, role, encryption.DECRYPT)
        self.log_group.grant_write(role)
        acknowledgments.explain(role, "inline-policy")
        acknowledgments.policy_of(role)
        pipe = pipes.CfnPipe(
            self,
            "Pipe",
            source=stream,
            target=self.event_bus.event_bus_arn,
            role_arn=role.role_arn,
            description=described(f"puts the rows of {results.node.path} on an event bus", PIPE),
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
                    filters=[pipes.CfnPipe.FilterProperty(pattern=json.dumps({"eventName": ["INSERT", "MODIFY"]}))]
                ),
            ),
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                input_template=json.dumps(_DETAIL),
                event_bridge_event_bus_parameters=pipes.CfnPipe.PipeTargetEventBridgeEventBusParametersProperty(
                    source=SOURCE, detail_type=RESULT, resources=[results.table.table_arn]
                ),
            ),
        )
        for policy in role.node.children:  # the pipe checks its permissions when it is created
            pipe.node.add_dependency(policy)
        add_metadata(pipe, "result-events")
        return pipe

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the batches that the bus did not take, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)
