"""The common parts of the triggers for streams: what a pipe does with records that fail, and what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_pipes as pipes

from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between, check_choice
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group
from cdk_inference.triggers.base import ITrigger
from cdk_inference.triggers.queue import MAX_BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from aws_cdk import aws_sqs as sqs

RECORD = '"message_id": "<$.eventID>", "receive_count": "1"'
"""The first members of a message. The id is the one by which pipes want to hear which records failed.

Nobody counts how often a record is delivered: each counts as the first, and what fails by itself is a dead letter at
once. A stream that waited for a record would keep all that follow from being scored.
"""

_MOST_AGE = 604_800  # seconds that a pipe keeps on trying at most


@check_props
class IStreamTrigger(ITrigger):
    """Records of a stream that start a workflow in batches, in the order of each key.

    The workflow puts what fails by itself into the dead-letter queue, with its payload. The pipe tries again what comes
    back from the workflow, for example because a function was throttled. It halves the batch until only the records are
    left that keep coming back. A batch that it gives up is named in ``undelivered_queue``, by its place in the stream.

    Attributes
    ----------
    dead_letter_queue, undelivered_queue, log_group
        The parts.
    batch_size
        Most records the workflow gets at once.
    """

    items_are = "records"
    max_receive_count = 1
    undelivered_queue: sqs.IQueue
    _reading: Mapping[str, Any]

    def _create_parts(
        self, *, key: kms.IKey | None, log_retention: logs.RetentionDays, removal_policy: RemovalPolicy | None
    ) -> None:
        encryption.check_key(self, key)
        if key is not None:
            encryption.allow_logs(key, self)
        self._key = key
        self.dead_letter_queue = self._create_dead_letter_queue()
        self.undelivered_queue = self._create_undelivered_queue()
        self.log_group = log_group(
            self, key=key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )

    @property
    def _statements(self) -> list[iam.PolicyStatement]:
        """Let the pipe say what it gave up."""
        return [iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[self.undelivered_queue.queue_arn])]

    @property
    def _parameters(self) -> dict[str, Any]:
        """How the pipe reads, and where it says what it gave up."""
        queue = pipes.CfnPipe.DeadLetterConfigProperty(arn=self.undelivered_queue.queue_arn)
        return {**self._reading, "dead_letter_config": queue}

    @property
    def dead_letter_attributes(self) -> Mapping[str, str]:
        """``Item`` says in JSON which record a dead letter was."""
        return {"Item": "{% $string($messages[message_id = $states.input.message_id].item) %}"}

    def age_metric(self) -> cloudwatch.IMetric | None:
        """Return None: AWS does not measure how long records of this stream have waited."""
        return None


def reading(
    *,
    batch_size: int,
    max_batching_window: Duration | None,
    parallelization_factor: int,
    max_record_age: Duration | None,
    max_retry_attempts: int | None,
    starting_position: str,
) -> dict[str, Any]:
    """Return how a pipe reads a stream, as its parameters.

    Raises
    ------
    PropError
        A prop is out of range.
    """
    window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
    age = max_record_age if max_record_age is not None else Duration.hours(12)
    check_between(1, MAX_BATCH_SIZE, batch_size=batch_size)
    check_between(1, 10, parallelization_factor=parallelization_factor)
    check_choice(("TRIM_HORIZON", "LATEST"), starting_position=starting_position)
    seconds("max_batching_window", window, least=0, most=300)
    seconds("max_record_age", age, least=60, most=_MOST_AGE)
    if max_retry_attempts is not None:
        check_between(0, 10_000, max_retry_attempts=max_retry_attempts)
    return {
        "starting_position": starting_position,
        "batch_size": batch_size,
        "maximum_batching_window_in_seconds": window.to_seconds(),
        "parallelization_factor": parallelization_factor,
        "on_partial_batch_item_failure": "AUTOMATIC_BISECT",
        "maximum_record_age_in_seconds": age.to_seconds(),
        "maximum_retry_attempts": -1 if max_retry_attempts is None else max_retry_attempts,
    }
