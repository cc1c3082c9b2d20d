"""The trigger for messages: each message of an SQS queue is an item, in whatever format it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aws_cdk import Annotations, Duration, Size, Token
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs

from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group
from cdk_inference.triggers.base import HELD_SECONDS, ITrigger, check_batches

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct

MAX_BATCH_SIZE = 32

MOST_INPUT = 262_144  # characters of a workflow's input
ENVELOPE = 700  # characters of a message besides its body
_ESCAPED = 2  # characters that one of a text takes in JSON at most; SQS takes no control characters but white space
_LEAST, _MOST = 1024, 1_048_576  # bytes that SQS accepts as a limit

# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html has the characters.
_PATH = re.compile(r"\$(\.[A-Za-z0-9_/-]+|\[\d+\])+")


@check_props
class QueueTrigger(ITrigger):
    """Start a workflow with the messages of an SQS queue, in batches; each message is an item.

    Queue with a dead-letter queue → EventBridge pipe. The body of a message is what the preprocessing gets as the bytes
    of an object. A body that is JSON is written anew on its way, without white space between its members.

    A row says in its attribute ``bucket`` where its item comes from, ``sqs:`` and the name of the queue, and in ``key``
    the id of the item. A later message of the same id replaces the row of an earlier one, whichever is scored first.

    Parameters
    ----------
    queue
        The queue, which must be a standard one. It must hide messages for as long as the workflow takes. Default: a
        new one, encrypted, TLS only, which refuses messages that would be too large for a workflow.
    item_id
        Where in a message of JSON the id of its item is, such as ``"$.order.id"``. Default: the id that SQS gave the
        message, so that each message is another item.
    sequence
        Where in a message of JSON the number is that orders messages of the same id, such as ``"$.version"``. It has
        1 to 64 digits, and may be a string. Default: the time at which the message was sent, in
        milliseconds.
    encryption_key
        Customer managed key of the queues. Default: that of `queue`, or SQS encrypts with its own.
    batch_size
        Most messages the workflow gets at once, 1 to 32. Default: 10.
    max_message_size
        Largest message. All messages of a batch must fit into the input of a workflow, 256 KiB, where a text may take
        twice its size. Default: what is left for each, 12 KiB with batches of 10.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds; at least 1 for batches of more than 10.
        Default: 1 second.
    max_receive_count
        Times a message that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. Default:
        10.
    processing_timeout
        Longest time the workflow takes; a new queue hides a message for this and 30 seconds more, plus the window.
        Default: 5 minutes, the limit of an express workflow.
    log_retention
        The retention of the pipe's log group. Default: one month.
    removal_policy
        The policy of the log group. Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    queue, dead_letter_queue, log_group
        The parts.

    Raises
    ------
    PropError
        A prop is out of range, a path is none, or messages would not fit. Or the queue is a FIFO queue, in another
        account or Region, or shows its messages again before the workflow is done.
    """

    queue: sqs.IQueue

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        queue: sqs.IQueue | None = None,
        item_id: str | None = None,
        sequence: str | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = 10,
        max_message_size: Size | None = None,
        max_batching_window: Duration | None = None,
        max_receive_count: int = 10,
        processing_timeout: Duration | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
        hidden = processing_timeout if processing_timeout is not None else Duration.minutes(5)
        check_batches(
            batch_size=batch_size, window=self._window, max_receive_count=max_receive_count, most=MAX_BATCH_SIZE
        )
        self._item_id = checked_path("item_id", item_id)
        self._sequence = checked_path("sequence", sequence)
        self.batch_size, self.max_receive_count = batch_size, max_receive_count
        if encryption_key is None and queue is not None:
            encryption_key = queue.encryption_master_key
        encryption.check_key(self, encryption_key)
        if encryption_key is not None:
            encryption.allow_logs(encryption_key, self)
        self._key = encryption_key
        size = _largest_message(batch_size, max_message_size)
        self.dead_letter_queue = self._create_dead_letter_queue()
        if queue is None:
            self.queue = self._create_queue(hidden, max_message_size=size)
        else:
            self.queue = queue
            check_environment(
                self, "queue", queue, fix="move the pipeline there, or let a rule there forward to a queue"
            )
            _check_queue(self, queue, hidden.plus(self._window).plus(Duration.seconds(HELD_SECONDS)), size)
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )

    @property
    def source(self) -> str:
        """``sqs:`` and the name of the queue."""
        return f"sqs:{self.queue.queue_name}"

    @property
    def _item_template(self) -> str:
        """Say which item a message is; a path that is missing leaves an empty text, which the stages refuse."""
        item_id = "$.messageId" if self._item_id is None else f"$.body{self._item_id.removeprefix('$')}"
        sent = "$.attributes.SentTimestamp"
        sequence = sent if self._sequence is None else f"$.body{self._sequence.removeprefix('$')}"
        return (
            f', "item": {{"source": "<aws.pipes.source-arn>", "id": "<{item_id}>", "sequence": "<{sequence}>", '
            f'"time": "<{sent}>"}}'
        )

    @property
    def _item_variables(self) -> dict[str, str]:
        return {"ITEM_ID": _dotted(self._item_id), "ITEM_SEQUENCE": _dotted(self._sequence)}


def _dotted(path: str | None) -> str:
    """Return a path such as ``$.lines[0].id`` as ``lines.0.id``; empty for none."""
    return "" if path is None else path.removeprefix("$").replace("[", ".").replace("]", "").removeprefix(".")


def fitting_bytes(batch_size: int) -> int:
    """Return the bytes of the largest message that a batch can be full of, if texts take twice their size."""
    return (MOST_INPUT // batch_size - ENVELOPE) // _ESCAPED


def checked_path(prop: str, path: str | None) -> str | None:
    """Return a path into JSON that pipes know.

    Raises
    ------
    PropError
        It is none.
    """
    if path is not None and not _PATH.fullmatch(path):
        raise PropError(
            f"{prop} must be a path such as '$.order.id', got '{path}'; name members of letters, digits, '_', '-' and "
            "'/', and elements by number"
        )
    return path


def _largest_message(batch_size: int, given: Size | None) -> int:
    """Return the bytes of the largest message that a batch can be full of."""
    fit = fitting_bytes(batch_size)
    if given is None:
        return fit
    size = int(given.to_bytes())
    if not _LEAST <= size <= fit:
        raise PropError(
            f"max_message_size must be {_LEAST:,} to {fit:,} bytes with batch_size={batch_size}, got {size:,}; use "
            "smaller batches for larger messages, or put large items into an S3 bucket"
        )
    return size


def _check_queue(scope: Construct, queue: sqs.IQueue, hidden: Duration, size: int) -> None:
    """Refuse a queue that a pipe cannot take batches from, as far as this app knows it."""
    if queue.fifo:
        raise PropError(
            "queue must be a standard queue, got a FIFO queue; name the order of messages with sequence='$.…'"
        )
    resource = queue.node.default_child
    known = resource if isinstance(resource, sqs.CfnQueue) else None
    shown = None if known is None else known.visibility_timeout
    if shown is not None and not Token.is_unresolved(shown) and shown < hidden.to_seconds():
        raise PropError(
            f"queue must hide messages for {hidden.to_seconds():g} s or more, got visibility_timeout={shown:g} s; "
            "raise it, or lower processing_timeout to what the workflow may take"
        )
    limit = None if known is None else known.maximum_message_size
    if limit is None or (not Token.is_unresolved(limit) and limit > size):
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:large-messages",
            f"queue {queue.node.path} takes messages larger than {size:,} bytes: a batch of these would not fit into "
            f"the input of a workflow, and be tried in vain; set max_message_size_bytes={size} on the queue, or use "
            "smaller batches",
        )
