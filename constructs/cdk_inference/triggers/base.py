"""The common parts of all triggers: queue, dead letters, and the pipe that hands batches to a workflow."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aws_cdk import Annotations, Duration, Stack, Token, Tokenization
from aws_cdk import aws_iam as iam
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, pipeline_path
from cdk_inference.common.principals import pipes_principal
from cdk_inference.common.props.deprecations import renamed_attribute
from cdk_inference.common.props.descriptions import PIPE, ROLE, described
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.queues import last_resort, no_sources
from cdk_inference.triggers.pipe_source import PipeSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_events as events
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_lambda as lambda_
    from aws_cdk import aws_logs as logs
    from aws_cdk import aws_s3 as s3
    from aws_cdk import aws_stepfunctions as sfn
    from constructs import IConstruct

    from cdk_inference.costs.options import ItemKind
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.state_machine import LoggedStateMachine
    from cdk_inference.storage.results import IResultsTable


HELD_SECONDS = 30
"""How long a pipe holds messages besides the workflow's time: up to 20 seconds before it, and 10 for its own calls."""

MOST_RECEIVES = 1000
"""Times that SQS delivers a message at most before it is a dead letter: the largest number that it takes."""

_LARGEST_WITHOUT_WINDOW = 10
"""Lambda's pollers of SQS refuse larger batches without a window; those of pipes are taken to be the same."""


def dead_letter(
    queue_url: str, *, body: str, error: str, cause: str, others: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Return the arguments with which a workflow sends a dead letter: the message, and why it failed.

    Parameters
    ----------
    queue_url
        The dead-letter queue.
    body
        The message's body, as the trigger's queue had it.
    error, cause
        Name and text of the error, which readers of the queue find in the attributes ``Error`` and ``Cause``.
    others
        Further attributes by name, none of them empty.
    """
    attributes = {"Error": error, "Cause": cause, **(others or {})}
    return {
        "QueueUrl": queue_url,
        "MessageBody": body,
        "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    }


@check_props
class ITrigger(Construct):
    """A source of items, which starts a workflow in batches.

    Attributes
    ----------
    queue, dead_letter_queue, undelivered_queue, log_group
        The parts. ``queue`` has the messages of the items; None if they come from a stream. ``undelivered_queue`` has
        what did not reach the queue or the workflow; None if nothing can get lost on its way.
    prefix
        The beginning of all keys.
    batch_size, max_receive_count
        Most items the workflow gets at once, and how often one that fails by itself is delivered.
    objects
        The trigger for the objects that the items are in, if an object has many of them.
    functions, workflow
        The functions that make items of events, by what they do, and their state machine, if there are any.
    items_are
        The kind of the items for the estimates of costs, see `PipelineShape`.
    """

    items_are: ItemKind = "messages"
    queue: sqs.IQueue | None = None
    dead_letter_queue: sqs.IQueue
    undelivered_queue: sqs.IQueue | None = None
    log_group: logs.LogGroup
    prefix: str = ""
    batch_size: int
    max_receive_count: int
    objects: IS3Trigger | None = None
    functions: Mapping[str, StageFunction] = MappingProxyType({})
    workflow: LoggedStateMachine | None = None
    _key: kms.IKey | None
    _window: Duration
    _pipe: pipes.CfnPipe | None = None

    @property
    @abstractmethod
    def source(self) -> str:
        """The name that rows have for where their items come from, in the attribute ``bucket``."""

    @property
    def _item_template(self) -> str:
        """The members that the pipe adds to a message, to say which item it is; none if the body says so."""
        return ""

    @property
    def _pipe_source(self) -> PipeSource:
        """Return the source of the pipe, which is the queue."""
        return PipeSource.queue(
            self._messages, key=self._key, batch_size=self.batch_size, window=self._window, item=self._item_template
        )

    @property
    def _messages(self) -> sqs.IQueue:
        """The queue, for what a trigger without one cannot do."""
        if self.queue is None:
            raise PropError(f"{self.node.path} must have a queue for this, got a stream; ask the stream itself")
        return self.queue

    @property
    def dead_letter_attributes(self) -> Mapping[str, str]:
        """The attributes of dead letters besides the error: JSONata by name, with the failure as ``$states.input``."""
        return {}

    @property
    def _item_variables(self) -> dict[str, str]:
        """The variables that say the same to a function without a pipe."""
        return {}

    def _mark(self, consumer: IConstruct, role: str, target: IConstruct) -> None:
        """Write into the metadata of what takes the messages where its items come from, and whom it feeds."""
        add_metadata(consumer, role, **self._origin, trigger=self.node.path, feeds=pipeline_path(target))

    @property
    def _origin(self) -> dict[str, str]:
        """The facts that say where the items come from."""
        return {"source": self.source}

    def _create_dead_letter_queue(self) -> sqs.Queue:
        queue = sqs.Queue(
            self,
            "DeadLetterQueue",
            encryption=self._queue_encryption,
            encryption_master_key=self._key,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        add_metadata(queue, "dead-letter-queue", trigger=self.node.path)
        acknowledgments.explain(queue, "dead-letter-queue")
        return queue

    def _create_undelivered_queue(self) -> sqs.Queue:
        """Create the last resort, apart from the dead letters: SQS moves these back only where they come from."""
        return last_resort(self, "UndeliveredQueue", "undelivered-queue")

    def _create_queue(self, processing_timeout: Duration, *, max_message_size: int | None = None) -> sqs.Queue:
        queue = sqs.Queue(
            self,
            "Queue",
            encryption=self._queue_encryption,
            encryption_master_key=self._key,
            enforce_ssl=True,
            retention_period=Duration.days(14),
            redrive_allow_policy=no_sources(),
            visibility_timeout=processing_timeout.plus(self._window).plus(Duration.seconds(HELD_SECONDS)),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=self.dead_letter_queue, max_receive_count=self.max_receive_count
            ),
            max_message_size_bytes=max_message_size,
        )
        # SQS's own count may be higher.
        add_metadata(queue, "queue", max_receive_count=self.max_receive_count, trigger=self.node.path)
        return queue

    @property
    def _queue_encryption(self) -> sqs.QueueEncryption:
        return sqs.QueueEncryption.KMS if self._key else sqs.QueueEncryption.SQS_MANAGED

    def check_results(self, results: IResultsTable) -> None:
        """Refuse a table of results whose rows would be items again."""

    def follow(self, results: IResultsTable, models: Sequence[str]) -> None:
        """Tell the trigger where the rows of its items will be, and the versions of the models that write them."""

    def add_target(self, workflow: sfn.IStateMachine, *, encryption_key: kms.IKey | None = None) -> pipes.CfnPipe:
        """Start the express workflow with each batch, and wait for it.

        The workflow gets a list of ``{"message_id", "receive_count", "body"}``, where the count is a text and the body
        the event of EventBridge. With a payload as the body, ``item`` says which one it is. The workflow returns
        ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``: these messages stay in the queue.

        Parameters
        ----------
        workflow
            The workflow.
        encryption_key
            The customer managed key of the workflow. Default: none, or that of the trigger.

        Raises
        ------
        PropError
            The workflow is in another stack: each stack would refer to the other one.
        """
        own, other = (_outermost_stack(each).node.path for each in (self, workflow))
        if own != other and workflow.node.default_child is not None:  # an imported one refers to nothing
            raise PropError(
                f"{self.node.path} must be in the stack of its workflow, {other}, got {own}; create it there, and pass "
                "it the bucket or the queue of the other stack"
            )
        source = self._pipe_source
        role = iam.Role(
            self,
            "PipeRole",
            assumed_by=pipes_principal(Stack.of(self)),
            description=described(
                f"takes {source.contents} from the {source.kind} of {self.node.path} and starts its workflow", ROLE
            ),
            inline_policies={
                "Pipe": iam.PolicyDocument(
                    statements=[
                        *source.statements,
                        iam.PolicyStatement(
                            actions=["states:StartSyncExecution"], resources=[workflow.state_machine_arn]
                        ),
                    ]
                )
            },
        )
        encryption.grant(source.key, role, encryption.DECRYPT)
        if encryption_key is not source.key:
            encryption.grant(encryption_key, role, encryption.DECRYPT)
        self.log_group.grant_write(role)
        acknowledgments.explain(role, "inline-policy")
        acknowledgments.policy_of(role)
        pipe = pipes.CfnPipe(
            self,
            "Pipe",
            source=source.arn,
            target=workflow.state_machine_arn,
            role_arn=role.role_arn,
            log_configuration=pipes.CfnPipe.PipeLogConfigurationProperty(
                level="ERROR",
                cloudwatch_logs_log_destination=pipes.CfnPipe.CloudwatchLogsLogDestinationProperty(
                    log_group_arn=self.log_group.log_group_arn
                ),
            ),
            description=described(f"hands the {source.kind} of {self.node.path} to its workflow in batches", PIPE),
            source_parameters=source.parameters,
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                input_template=f"{{{source.message}}}",
                step_function_state_machine_parameters=pipes.CfnPipe.PipeTargetStateMachineParametersProperty(
                    invocation_type="REQUEST_RESPONSE"
                ),
            ),
        )
        for policy in role.node.children:  # the pipe checks its permissions when it is created
            pipe.node.add_dependency(policy)
        self._mark(pipe, "pipe", workflow)
        self._pipe = pipe
        return pipe

    def add_function(
        self, function: StageFunction, *, max_concurrency: int | None = None
    ) -> lambda_.CfnEventSourceMapping:
        """Invoke a function with each batch, by an event source mapping of Lambda; see `DirectPipeline`.

        Parameters
        ----------
        function
            A function with the handler for that. It may take messages and send dead letters.
        max_concurrency
            Most invocations at a time, 2 to 1,000. Default: as many as Lambda finds right.
        """
        from aws_cdk import aws_lambda as lambda_  # noqa: PLC0415 - only for direct pipelines

        iam.Grant.add_to_principal(
            grantee=function,
            actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
            resource_arns=[self._messages.queue_arn],
        )
        encryption.grant(self._key, function, encryption.DECRYPT)
        self.leave_dead_letters_to(function)
        function.add_variables(
            {
                "DEAD_LETTER_QUEUE": self.dead_letter_queue.queue_url,
                "MAX_RECEIVE_COUNT": Tokenization.stringify_number(self.max_receive_count),
                **self._item_variables,
            }
        )
        mapping = lambda_.CfnEventSourceMapping(
            self,
            "Mapping",
            function_name=function.target.function_arn,
            event_source_arn=self._messages.queue_arn,
            batch_size=self.batch_size,
            maximum_batching_window_in_seconds=self._window.to_seconds(),
            function_response_types=["ReportBatchItemFailures"],
            scaling_config=None
            if max_concurrency is None
            else lambda_.CfnEventSourceMapping.ScalingConfigProperty(maximum_concurrency=max_concurrency),
        )
        mapping.node.add_dependency(function.role)  # Lambda checks the permissions when the mapping is created
        self._mark(mapping, "mapping", function)
        return mapping

    def grant_send_dead_letter(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put messages into the dead-letter queue."""
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["sqs:SendMessage"], resource_arns=[self.dead_letter_queue.queue_arn]
        )

    def leave_dead_letters_to(self, workflow: iam.IGrantable) -> iam.Grant:
        """Let a workflow decide which messages become dead letters, and put them into the queue itself.

        SQS counts deliveries, and cannot tell those of an item that fails from those in which a function was throttled.
        So a queue that the trigger made only moves what was delivered `MOST_RECEIVES` times. The redrive policy of
        another queue stays as its owner made it.
        """
        if self.queue is not None and self.queue.node.scope is self:
            queue = self.queue.node.default_child
            if isinstance(queue, sqs.CfnQueue):
                queue.add_property_override("RedrivePolicy.maxReceiveCount", MOST_RECEIVES)
        return self.grant_send_dead_letter(workflow)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put items into the queue."""
        return self.grant_send(grantee)

    def grant_send(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put messages into the queue, in the form that the workflow takes."""
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["sqs:SendMessage"], resource_arns=[self._messages.queue_arn]
        )

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read what the messages refer to: nothing, where they have the items themselves."""
        return iam.Grant.drop(grantee, "the messages have the items themselves")

    def grant_look_up(self, grantee: iam.IGrantable, *, metadata: bool, tags: bool) -> None:  # noqa: ARG002
        """Let the grantee read what objects are labelled with.

        Raises
        ------
        PropError
            The items are messages.
        """
        raise PropError(
            f"routing must not ask for metadata or tags, which the messages of {self.node.path} do not have; choose by "
            "another property, or use an S3Trigger"
        )

    def acknowledge_read(self, role: iam.IRole) -> None:
        """Acknowledge what linters find in the policy of a role that `grant_read` added to."""

    def metric_queue_depth(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages waiting, the maximum over 5 minutes."""
        return self._messages.metric_approximate_number_of_messages_visible(**options)

    def metric_oldest_message_age(self, **options: Any) -> cloudwatch.Metric:
        """Measure the age in seconds of the oldest message, the maximum over 5 minutes."""
        return self._messages.metric_approximate_age_of_oldest_message(**options)

    def age_metric(self) -> cloudwatch.IMetric | None:
        """Return how long the oldest item has waited, in seconds; None where AWS does not measure that."""
        return self.metric_oldest_message_age()

    def metric_pipe_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions of the pipe that failed, as a sum over 5 minutes.

        Raises
        ------
        PropError
            There is no pipe: `add_target` makes it.
        """
        return self._metric_pipe("ExecutionFailed", options)

    def metric_pipe_throttled(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions of the pipe that were throttled, as a sum over 5 minutes; see `metric_pipe_failed`."""
        return self._metric_pipe("ExecutionThrottled", options)

    def _metric_pipe(self, name: str, options: dict[str, Any]) -> cloudwatch.Metric:
        from aws_cdk import aws_cloudwatch as cloudwatch  # noqa: PLC0415 - for who asks

        if self._pipe is None:
            raise PropError(f"{self.node.path} must have a target before its pipe has metrics, got none; add_target()")
        return cloudwatch.Metric(
            **{
                "namespace": "AWS/EventBridge/Pipes",
                "metric_name": name,
                "dimensions_map": {"PipeName": self._pipe.ref},
                "statistic": cloudwatch.Stats.SUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count what did not reach the queue, the maximum over 5 minutes.

        Raises
        ------
        PropError
            Nothing can get lost on its way: ``undelivered_queue`` is None.
        """
        if self.undelivered_queue is None:
            raise PropError(
                f"{self.node.path} must have an undelivered_queue for this metric, got none; what is sent to a queue "
                "directly is refused, not lost"
            )
        return self.undelivered_queue.metric_approximate_number_of_messages_visible(**options)

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages in the dead-letter queue, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)


@check_props
class IS3Trigger(ITrigger):
    """Objects of a bucket that start a workflow in batches: an `S3Trigger`, or one of another stack.

    Attributes
    ----------
    bucket, queue, dead_letter_queue, undelivered_queue, log_group
        The parts. Events that EventBridge cannot deliver to the queue go to ``undelivered_queue``; None without it.
    prefix, suffixes, batch_size, max_receive_count
        As those of `S3Trigger`; ``suffixes`` are not known of a trigger of another stack, and empty.
    """

    items_are = "objects"
    bucket: s3.IBucket
    queue: sqs.IQueue
    suffixes: Sequence[str] = ()
    _bucket_key: kms.IKey | None

    @property
    def source(self) -> str:
        """The name of the bucket."""
        return self.bucket.bucket_name

    @property
    def _origin(self) -> dict[str, str]:
        return {"bucket": self.source, "prefix": self.prefix}

    def allow_undelivered(self, rule: events.CfnRule) -> None:
        """Let a rule of EventBridge put what else got lost into ``undelivered_queue``."""
        if self.undelivered_queue is not None:
            allow_events(self.undelivered_queue, rule)

    grant_bury = renamed_attribute("S3Trigger.grant_bury", "grant_send_dead_letter")

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects under the prefix."""
        encryption.grant(self._bucket_key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:PutObject"],
            resource_arns=[self.bucket.arn_for_objects(f"{self.prefix}*")],
        )

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read the objects under the prefix.

        Listing is part of it: without it S3 answers 403 rather than 404 for an object that is gone.
        """
        encryption.grant(self._bucket_key, grantee, encryption.DECRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:GetObject", "s3:GetObjectVersion"],
            resource_arns=[self.bucket.arn_for_objects(f"{self.prefix}*")],
        ).combine(
            iam.Grant.add_to_principal(
                grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
            )
        )

    def grant_look_up(self, grantee: iam.IGrantable, *, metadata: bool, tags: bool) -> None:
        """Let the grantee read metadata and tags of the objects under the prefix, and list them; see `grant_read`."""
        if metadata:
            self.grant_read(grantee)
        if tags:
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["s3:GetObjectTagging", "s3:GetObjectVersionTagging"],
                resource_arns=[self.bucket.arn_for_objects(f"{self.prefix}*")],
            )
            iam.Grant.add_to_principal(
                grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
            )

    def acknowledge_read(self, role: iam.IRole) -> None:
        """Acknowledge that objects can only be granted by a pattern."""
        acknowledgments.objects_under(role, self.bucket, f"{self.prefix}*")


def check_batches(*, batch_size: int, window: Duration, max_receive_count: int, most: int) -> None:
    """Refuse what a pipe or the queue would refuse.

    Raises
    ------
    PropError
        A prop is out of range.
    """
    check_between(1, most, batch_size=batch_size)
    check_between(1, MOST_RECEIVES, max_receive_count=max_receive_count)
    waits = seconds("max_batching_window", window, least=0, most=300)
    if waits == 0 and not Token.is_unresolved(batch_size) and batch_size > _LARGEST_WITHOUT_WINDOW:
        raise PropError(
            f"max_batching_window must be at least 1 s for batches of more than {_LARGEST_WITHOUT_WINDOW}, got 0 s "
            f"with batch_size={batch_size}; wait for a second, or use batch_size={_LARGEST_WITHOUT_WINDOW}"
        )


def allow_events(queue: sqs.IQueue, rule: events.CfnRule) -> None:
    """Let a rule send to a queue; the policy of an imported queue cannot be changed, and a warning says so."""
    result = queue.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("events.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[queue.queue_arn],
            conditions={"ArnEquals": {"aws:SourceArn": rule.attr_arn}},
        )
    )
    if not result.statement_added:
        Annotations.of(rule).add_warning_v2(
            "cdk-inference:imported-queue",
            f"the policy of the imported queue {queue.node.path} must allow events.amazonaws.com the action "
            "sqs:SendMessage; add a statement there with the rule as aws:SourceArn",
        )


def _outermost_stack(construct: IConstruct) -> Stack:
    """Return the stack that is deployed with a construct in it: nested ones are deployed with their parents."""
    stack = Stack.of(construct)
    while stack.nested_stack_parent is not None:
        stack = stack.nested_stack_parent
    return stack
