"""The workflow: preprocess, infer and postprocess a batch, and find the item that kills its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference import acknowledgments
from cdk_inference.functions import TRANSIENT_ERRORS
from cdk_inference.metadata import mark
from cdk_inference.storage import log_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms

    from cdk_inference.functions import StageFunction


class InferenceWorkflow(Construct):
    """An express state machine that takes a batch of messages through the three stages.

    Input: a list of ``{"message_id", "body"}``, as `S3Trigger` sends it. Output:
    ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``, the messages that must be tried again.

    The stages handle the errors of single items themselves. When an invocation dies as a whole (out of memory, a
    crash, a timeout), the batch is split in two and both halves are tried, until the item that kills it is alone: only
    that one fails. When Lambda or another service is not available, nothing can be learnt from halves: what is left is
    given back to the queue. So is what is left when the time might not suffice for another part: an execution that ran
    out of time would report its finished part as failed too.

    Parameters
    ----------
    preprocess, inference, postprocess
        The stages.
    timeout
        Of one execution, at most 5 minutes. Default: 5 minutes.
    encryption_key
        Customer managed key of the log group. Default: CloudWatch Logs encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    state_machine
        The state machine, for everything this construct does not cover.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        preprocess: StageFunction,
        inference: StageFunction,
        postprocess: StageFunction,
        timeout: Duration | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.log_group = log_group(self, key=encryption_key, retention=log_retention, removal_policy=log_removal_policy)
        stages = (preprocess, inference, postprocess)
        limit = timeout if timeout is not None else Duration.minutes(5)
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            comment=f"scores batches of objects with {inference.node.path}",
            definition_body=sfn.DefinitionBody.from_chainable(
                self._definition(preprocess, inference, postprocess, _last_start(limit, stages))
            ),
            query_language=sfn.QueryLanguage.JSONATA,
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=limit,
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=self.log_group, level=sfn.LogLevel.ERROR, include_execution_data=False),
        )
        for stage in stages:
            stage.grant_invoke(self.state_machine)
        mark(self.state_machine, "state-machine")
        acknowledgments.errors_logged_only(self.state_machine)
        acknowledgments.tracing_and_log_delivery(self.state_machine)

    def _definition(
        self, preprocess: StageFunction, inference: StageFunction, postprocess: StageFunction, last_start: int
    ) -> sfn.IChainable:
        """Build the states; no part of a batch is started after so many milliseconds.

        Variables: ``pending``, the batches still to do; ``batch``, the messages of the one at hand; ``failures``, the
        ids of the messages to try again. JSONata drops the brackets of a list of one, hence the ``[…]`` around lists.
        """
        receive = sfn.Pass.jsonata(
            self, "Receive", assign={"pending": [{"messages": "{% $states.input %}"}], "failures": []}
        )
        more = sfn.Choice.jsonata(self, "More to do?")
        take = sfn.Pass.jsonata(
            self,
            "Take batch",
            assign={
                "batch": "{% [$pending[0].messages] %}",
                "pending": "{% [$filter($pending, function($batch, $index) { $index > 0 })] %}",
            },
        )
        preprocessing = preprocess.task(
            self,
            "Preprocess",
            payload={"messages": "{% $batch %}"},
            assign={
                "items": "{% [$states.result.Payload.items] %}",
                "rejected": "{% [$states.result.Payload.rejected] %}",
                "retry": "{% [$states.result.Payload.retry] %}",
            },
            output={"groups": "{% [$states.result.Payload.groups] %}"},
        )
        any_left = sfn.Choice.jsonata(self, "Anything to score?")
        infer = inference.task(
            self,
            "Infer",
            payload={"groups": "{% [$states.input.groups] %}"},
            output="{% $states.result.Payload %}",
        )
        postprocessing = postprocess.task(
            self,
            "Postprocess",
            # The output of the stage before: groups, inference and, if a model ran, its version.
            payload="{% $merge([$states.input, {'items': $items, 'rejected': $rejected}]) %}",
            assign={"failures": "{% [$append($append($failures, $retry), [$states.result.Payload.retry])] %}"},
        )
        died = sfn.Choice.jsonata(self, "More than one item?")
        split = sfn.Pass.jsonata(
            self,
            "Split batch",
            assign={
                # The halves go to the end, so that those without a poison are done first.
                "pending": "{% ($half := $floor($count($batch) / 2); [$append($pending, ["
                "{'messages': [$batch[[0..$half - 1]]]}, {'messages': [$batch[[$half..$count($batch) - 1]]]}"
                "])]) %}"
            },
        )
        fail_item = sfn.Pass.jsonata(
            self, "Fail item", assign={"failures": "{% [$append($failures, [$batch.message_id])] %}"}
        )
        give_back = sfn.Pass.jsonata(
            self,
            "Give back the rest",
            assign={
                "failures": "{% [$append($append($failures, [$batch.message_id]), [$pending.messages.message_id])] %}",
                "pending": [],
            },
        )
        done = sfn.Pass.jsonata(
            self,
            "Report failures",
            outputs={"batchItemFailures": "{% [$failures.{'itemIdentifier': $}] %}"},
        )
        for state in (preprocessing, infer, postprocessing):
            state.add_catch(give_back, errors=list(TRANSIENT_ERRORS))
            state.add_catch(died, errors=[sfn.Errors.ALL])

        receive.next(more)
        more.when(sfn.Condition.jsonata("{% $count($pending) = 0 %}"), done)
        more.when(
            sfn.Condition.jsonata(
                "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
                f"> {last_start} %}}"
            ),
            give_back,
            assign={"batch": []},
        )
        more.otherwise(take)
        take.next(preprocessing).next(any_left)
        any_left.when(
            sfn.Condition.jsonata("{% $count($states.input.groups) = 0 %}"),
            postprocessing,
            outputs={"groups": [], "inference": "none"},
        ).otherwise(infer)
        infer.next(postprocessing).next(more)
        died.when(sfn.Condition.jsonata("{% $count($batch) > 1 %}"), split).otherwise(fail_item)
        split.next(more)
        fail_item.next(more)
        give_back.next(more)
        return receive

    def grant_start_sync_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee run a batch and wait for the answer."""
        return self.state_machine.grant_start_sync_execution(grantee)

    def metric_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions that failed as a whole, as a sum over 5 minutes."""
        return self.state_machine.metric_failed(**options)

    def metric_timed_out(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions that ran out of time, as a sum over 5 minutes."""
        return self.state_machine.metric_timed_out(**options)

    def metric_time(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of an execution, the average over 5 minutes."""
        return self.state_machine.metric_time(**options)


def _last_start(timeout: Duration, stages: Sequence[StageFunction]) -> int:
    """Return the milliseconds after which a part might not be done within the timeout, and half of that at least."""
    limit = int(timeout.to_milliseconds())
    if any(stage.timeout.is_unresolved() for stage in stages):
        return limit // 2
    return max(limit - sum(int(stage.timeout.to_milliseconds()) for stage in stages), limit // 2)
