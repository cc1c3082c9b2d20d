"""The workflow that may wait: it takes over batches for a GPU that is perhaps not there yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from aws_cdk import Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common import acknowledgments
from cdk_inference.common.jsonata import EMPTY, one_line
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.descriptions import RULE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.errors import PropError
from cdk_inference.stages.base import CONFIGURATION_ERRORS, NO_MODEL
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption
from cdk_inference.triggers.base import dead_letter
from cdk_inference.triggers.s3 import MAX_BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.triggers.base import IS3Trigger

FIRST_WAIT = 5
LONGEST_WAIT = 60
"""Bounds of the pause before another try, in seconds; it doubles each time, and a random share of it is waited."""

STORE_TRIES = 12
"""Times that a row is tried to be written, besides the retries of each time: about five minutes."""

_STORING_HOURS = 1
# Lambda's cause is JSON, of which the message is what a reader of a row wants. Ours begin with the error's name too.
# Backslashes by number: JSONata looks for the end of a regular expression without regard to escaped brackets.
_REFUSAL = one_line(r"""{% (
  $said := $match($states.errorOutput.Cause, /"errorMessage": ?"((?:[^"\x5c]|\x5c.)*)/)[0].groups[0];
  $cause := $substring($said ? $replace($said, /\x5c(.)/, "$1") : $states.errorOutput.Cause, 0, 200);
  $substringBefore($cause, ":") = $states.errorOutput.Error ? $cause : $states.errorOutput.Error & ": " & $cause
) %}""")
# An explanation may have been what the invocation died of. So nothing but the answers counts from then on.
_UNEXPLAINED = "{% [$groups.$merge([$, {'explain': []}])] %}"
# Ids of the items whose rows postprocessing has not written, for whatever reason.
_UNWRITTEN = "$append($states.result.Payload.retry, $states.result.Payload.failures.message_id)"
# The event that an item came with, as far as anybody reads it.
_EVENT = one_line("""{% $string({
  "source": "aws.s3", "detail-type": "Object Created", "time": $states.input.item.event_time,
  "detail": {"bucket": {"name": $states.input.item.bucket}, "object": $merge([
    {"key": $states.input.item.key, "size": $states.input.item.size,
     "etag": $states.input.item.etag, "sequencer": $states.input.item.sequencer},
    $states.input.item.version_id ? {"version-id": $states.input.item.version_id} : {}
  ])}
}) %}""")


class Outcomes(Protocol):
    """Counts what became of the objects of a batch."""

    def grant(self, workflow: sfn.StateMachine) -> None:
        """Let the workflow do what the states of `finish` do."""

    def finish(self, scope: Construct, then: sfn.IChainable) -> sfn.IChainable:
        """Make the states that count ``$ok`` and ``$errors``, for whom ``$counted`` of the input says."""


@check_props
@renamed_props(patience="max_wait")
class GpuWorkflow(LoggedStateMachine):
    """A standard state machine that scores what was preprocessed, for as long as it takes a GPU to come.

    Input: what preprocessing returned (``items``, ``rejected``, ``groups``), and what rows shall say besides
    (``first``, ``route``, ``variant``). With `outcomes`, also ``counted``: what they are counted for, or ``""``.

    While inference is refused, it waits and tries again, each time up to twice as long; nothing is polled. An
    invocation that dies makes it split the batch, until the item that kills it is alone, and does so twice. An item
    goes to the dead-letter queue if it cannot be scored within `max_wait`, or kills its invocation, or its row cannot
    be written. It goes there as the event that it came with, and a row says why. An execution that fails as a whole is
    reported to the queue of undelivered events. The report has its input, unless EventBridge leaves that out as too
    large.

    A batch makes five state transitions if all goes well.

    Parameters
    ----------
    inference, postprocess
        The stages.
    trigger
        The trigger whose dead-letter queue takes what failed.
    max_wait
        How long inference is tried.
    outcomes
        Counts what became of a batch at its end. Default: nothing counts it.
    encryption_key
        Customer managed key of the log group, the queue, the definition and the executions. Default: AWS encrypts with
        its own.
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
        inference: IStage,
        postprocess: StageFunction,
        trigger: IS3Trigger,
        max_wait: Duration,
        outcomes: Outcomes | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._create(
            first_state=_Definition(self, max_wait, inference.model_version or NO_MODEL, outcomes).build(
                inference, postprocess, trigger.dead_letter_queue.queue_url
            ),
            comment=f"scores preprocessed batches with {inference.node.path}",
            state_machine_type=sfn.StateMachineType.STANDARD,
            # Ends what hangs. Splitting a batch and storing its rows come on top of the wait.
            timeout=max_wait.plus(max_wait).plus(Duration.hours(_STORING_HOURS)).plus(_splitting(inference)),
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=log_removal_policy,
        )
        inference.grant_invoke(self.state_machine)
        postprocess.grant_invoke(self.state_machine)
        trigger.grant_send_dead_letter(self.state_machine)
        if outcomes is not None:
            outcomes.grant(self.state_machine)
        self.rule = self._report_failures(trigger)
        self._complete("gpu-state-machine")

    def _report_failures(self, trigger: IS3Trigger) -> events.CfnRule:
        """Keep the input of executions that fail as a whole: their messages are no longer in the queue."""
        queue = trigger.undelivered_queue
        if queue is None:
            raise PropError(
                f"trigger must have an undelivered_queue for batches that wait, got {trigger.node.path} without one; "
                "use an S3Trigger"
            )
        rule = events.CfnRule(
            self,
            "ExecutionFailed",
            description=described(f"executions of {self.node.path} that failed as a whole", RULE),
            event_pattern={
                "source": ["aws.states"],
                "detail-type": ["Step Functions Execution Status Change"],
                "detail": {
                    "status": ["FAILED", "TIMED_OUT", "ABORTED"],
                    "stateMachineArn": [self.state_machine.state_machine_arn],
                },
            },
            targets=[events.CfnRule.TargetProperty(id="Queue", arn=queue.queue_arn)],
        )
        trigger.allow_undelivered(rule)
        acknowledgments.explain(rule, "rule-of-last-resort")
        return rule

    def grant_start_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee hand over batches."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
        return self.state_machine.grant_start_execution(grantee)

    def start_task(
        self, scope: Construct, id: str, *, input: Mapping[str, object], output: Mapping[str, object]
    ) -> sfn.CustomState:
        """Make the state that hands a batch over.

        The execution is named by a hash of the messages' ids, so that the same batch, delivered again, starts no
        second one. A message that is moved out of the dead-letter queue has a new id.

        Parameters
        ----------
        input
            See the class; ``items`` must be in the variable of that name.
        output
            The output of the state.
        """
        task = sfn.CustomState(
            scope,
            id,
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::states:startExecution",
                "Arguments": {
                    "StateMachineArn": self.state_machine.state_machine_arn,
                    "Name": "{% $hash($join($sort([$items.message_id]), '/'), 'SHA-256') %}",
                    "Input": input,
                },
                "Output": output,
            },
        )
        task.add_retry(
            errors=list(state_errors("states:StartExecution", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=3,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return task


class _Definition:
    """The states.

    Variables: ``items``, ``rejected``, ``groups``, ``first``, ``route`` and ``variant`` as in the input; ``current``,
    the indices of the items at hand, and ``pending``, lists of those still to come; ``scored``, what inference returned
    for the current ones, and ``unstored``, the indices whose rows are not written yet; ``failed``, indices with
    reasons; ``once``, the indices of items that were alone when their invocation died; ``tries``, how often something
    was refused in a row; ``refusal``, what the last error said; ``broken``, what postprocessing failed on, by id. If
    somebody counts them: ``ok`` and ``errors``, how many rows were written, and ``counted`` as in the input.
    """

    def __init__(
        self, scope: Construct, max_wait: Duration, model_version: str, outcomes: Outcomes | None = None
    ) -> None:
        self._scope = scope
        self._max_wait = max_wait
        self._model_version = model_version
        self._counts = outcomes is not None
        done = sfn.Succeed.jsonata(scope, "Done")
        self._end = done if outcomes is None else outcomes.finish(scope, done)
        self._more = sfn.Choice.jsonata(scope, "More to do?")

    def build(self, inference: IStage, postprocess: StageFunction, dead_letters: str) -> sfn.IChainable:
        """Return the first state."""
        receive = sfn.Pass.jsonata(
            self._scope,
            "Receive",
            assign={
                "items": "{% [$states.input.items] %}",
                "rejected": "{% [$states.input.rejected] %}",
                "groups": "{% [$states.input.groups] %}",
                "first": "{% $exists($states.input.first) ? $states.input.first : {} %}",
                "route": "{% $exists($states.input.route) ? $states.input.route : null %}",
                "variant": "{% $exists($states.input.variant) ? $states.input.variant : null %}",
                "current": "{% [$states.input.groups.indices] %}",
                "pending": [],
                "scored": {},
                "unstored": [],
                "failed": [],
                "tries": 0,
                "refusal": EMPTY,
                "broken": {},
                "once": [],
                **({"ok": 0, "errors": 0, "counted": "{% $states.input.counted %}"} if self._counts else {}),
            },
        )
        infer = inference.task(
            self._scope,
            "Infer",
            payload={"groups": "{% $groups %}", "only": "{% [$current] %}"},
            assign={
                "scored": "{% $states.result.Payload %}",
                "unstored": "{% [$append($current, $rejected.index)] %}",
                "tries": 0,
                "refusal": EMPTY,
            },
            output={},
        )
        store = postprocess.task(
            self._scope,
            "Postprocess",
            payload="{% $merge([$scored, {'items': $items, 'rejected': $rejected, 'only': [$unstored], "
            "'first': $first, 'route': $route, 'variant': $variant}]) %}",
            assign={
                "unstored": "{% [$map($items, function($item, $index) { "
                f"$item.message_id in {_UNWRITTEN} ? $index }})] %}}",
                "rejected": "{% [$filter($rejected, function($one) { "
                f"$items[$one.index].message_id in {_UNWRITTEN} }})] %}}",
                "broken": "{% $merge([{}, $states.result.Payload.failures.{message_id: error & ': ' & cause}]) %}",
                **self._counted(),
            },
            output={},
        )
        receive.next(infer).next(store).next(self._more)
        self._wait_for_inference(infer, inference.transient_errors)
        self._wait_to_store(store, postprocess.transient_errors)
        self._split(infer, store)
        self._more.when(
            sfn.Condition.jsonata("{% $count($pending) > 0 %}"),
            infer,
            comment="parts are left",
            assign={
                "current": "{% [$pending[0].only] %}",
                "pending": "{% [$filter($pending, function($one, $index) { $index > 0 })] %}",
            },
        )
        self._more.when(
            sfn.Condition.jsonata("{% $count($failed) > 0 %}"),
            self._send_dead_letters(postprocess, dead_letters),
            comment="something failed",
        )
        self._more.otherwise(self._end)
        return receive

    def _counted(self) -> dict[str, str]:
        """Return the variables that are assigned when rows were written, if somebody counts them."""
        if not self._counts:
            return {}
        written = "$states.result.Payload."
        return {
            "ok": f"{{% $ok + {written}succeeded %}}",
            "errors": f"{{% $errors + {written}rejected + {written}failed %}}",
        }

    def _wait_for_inference(self, infer: sfn.CustomState, transient: tuple[str, ...]) -> None:
        minutes = f"{self._max_wait.to_minutes(integral=False):g}"
        time_left = sfn.Choice.jsonata(self._scope, "Time left for inference?")
        wait = self._wait("Wait for inference")
        give_up = sfn.Pass.jsonata(
            self._scope,
            "Give up inference",
            assign={
                "failed": "{% [$append($failed, [$map($append($current, $pending.only), function($index) { {'index': "
                f"$index, 'reason': 'no answer within {minutes} min of the hand-over: ' & $refusal}} }})])] %}}",
                "pending": [],
            },
        )
        # Until somebody has repaired what is misconfigured, too: these messages are in no queue.
        waits_for = [*transient, *CONFIGURATION_ERRORS]
        infer.add_catch(time_left, errors=waits_for, assign={"refusal": _REFUSAL})
        time_left.when(
            sfn.Condition.jsonata(self._within_max_wait()), wait, comment=f"within {minutes} minutes"
        ).otherwise(give_up)
        wait.next(infer)
        give_up.next(self._more)

    def _split(self, infer: sfn.CustomState, store: sfn.CustomState) -> None:
        died = sfn.Choice.jsonata(self._scope, "More than one item?")
        split = sfn.Pass.jsonata(
            self._scope,
            "Split batch",
            assign={
                "pending": "{% ($half := $floor($count($current) / 2); [$append($pending, ["
                "{'only': [$current[[0..$half - 1]]]}, {'only': [$current[[$half..$count($current) - 1]]]}"
                "])]) %}",
                "unstored": [],
            },
        )
        fail_item = sfn.Pass.jsonata(
            self._scope,
            "Fail item",
            assign={
                "failed": "{% [$append($failed, [{'index': $current[0], "
                "'reason': 'the invocation for this object died: ' & $refusal}])] %}",
                "unstored": [],
            },
        )
        infer.add_catch(died, errors=[sfn.Errors.ALL], assign={"refusal": _REFUSAL, "groups": _UNEXPLAINED})
        store.add_catch(died, errors=[sfn.Errors.ALL], assign={"refusal": _REFUSAL})
        again = self._wait("Wait to try it again", once="{% [$append($once, $current)] %}")
        died.when(sfn.Condition.jsonata("{% $count($current) > 1 %}"), split, comment="more than one")
        died.when(sfn.Condition.jsonata("{% $current[0] in $once %}"), fail_item, comment="one, and again")
        # An instance can disappear for other reasons, and one item is often a whole batch.
        died.otherwise(again)
        again.next(infer)
        split.next(self._more)
        fail_item.next(self._more)

    def _wait_to_store(self, store: sfn.CustomState, transient: tuple[str, ...]) -> None:
        tries_left = sfn.Choice.jsonata(self._scope, "Tries left to store?")
        wait = self._wait("Wait to store")
        give_up = sfn.Pass.jsonata(
            self._scope,
            "Give up storing",
            assign={
                "failed": "{% [$append($failed, [$map($unstored, function($index) { "
                "($why := $lookup($broken, $items[$index].message_id); {'index': $index, 'reason': "
                "$why ? 'postprocessing failed: ' & $why : 'the row could not be written; ' & $refusal}) })])] %}",
                "unstored": [],
            },
        )
        store.add_catch(tries_left, errors=[*transient, *CONFIGURATION_ERRORS], assign={"refusal": _REFUSAL})
        self._more.when(
            sfn.Condition.jsonata("{% $count($unstored) > 0 %}"), tries_left, comment="rows are not written"
        )
        tries_left.when(sfn.Condition.jsonata(f"{{% $tries < {STORE_TRIES} %}}"), wait).otherwise(give_up)
        wait.next(store)
        give_up.next(self._more)

    def _wait(self, id: str, **assign: str) -> sfn.Wait:
        """Wait a random share of a time that doubles: many executions shall not come back at once."""
        seconds = f"1 + $floor($random() * $min([{LONGEST_WAIT}, {FIRST_WAIT} * $power(2, $min([$tries, 10]))]))"
        return sfn.Wait.jsonata(
            self._scope,
            id,
            time=sfn.WaitTime.seconds(f"{{% {seconds} %}}"),
            assign={"tries": "{% $tries + 1 %}", **assign},
        )

    def _within_max_wait(self) -> str:
        return (
            "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
            f"< {int(self._max_wait.to_milliseconds())} %}}"
        )

    def _send_dead_letters(self, postprocess: StageFunction, dead_letters: str) -> sfn.Map:
        """Put the events of what failed into the dead-letter queue, and then say so in the rows."""
        send = sfn.CustomState(
            self._scope,
            "Send event",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self._scope).partition}:states:::sqs:sendMessage",
                "Arguments": dead_letter(dead_letters, body=_EVENT, error="Failed", cause="{% $states.input.reason %}"),
            },
        )
        send.add_retry(
            errors=[sfn.Errors.ALL],
            interval=Duration.seconds(1),
            max_attempts=6,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        send_all = sfn.Map.jsonata(
            self._scope,
            "Bury",
            items=sfn.ProvideItems.jsonata("{% [$failed] %}"),
            item_selector={
                "item": "{% $items[$states.context.Map.Item.Value.index] %}",
                "reason": "{% $states.context.Map.Item.Value.reason %}",
            },
            max_concurrency=4,
        )
        send_all.item_processor(send)
        record = postprocess.task(
            self._scope,
            "Record failures",
            payload="{% {'items': $items, 'rejected': $rejected, 'failed': $failed, 'groups': [], "
            f"'inference': 'none', 'model_version': '{self._model_version}', "
            "'only': [$append($failed.index, $rejected.index)], "
            "'first': $first, 'route': $route, 'variant': $variant} %}",
            assign=self._counted() or None,
            output={},
        )
        if self._counts:
            record.next(self._end)
        return send_all.next(record)  # type: ignore[return-value]


def _splitting(inference: IStage) -> Duration:
    """Return how long it takes to find two items in a full batch that time out."""
    halvings = math.ceil(math.log2(MAX_BATCH_SIZE))
    return Duration.seconds(2 * (halvings + 2) * int(inference.timeout.to_seconds()))
