"""The states of a child execution: plan a batch, have the pipeline's workflow score it, and queue what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.jsonata import one_line
from cdk_inference.common.service_errors import Kind, state_errors

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_inference.pipeline.workflow import InferenceWorkflow
    from cdk_inference.stages.base import StageFunction

_MOST_SECONDS = 240
"""How long a batch may take, so that its child execution, which has five minutes, can still queue what is left."""

_AT_ONCE = 8

_WANTED = "$states.input.BatchInput.wanted"
# A workflow says which messages must be tried again. One that ran out of time has said nothing.
_LEFT = one_line("""{% (
  $ids := $states.result.Status = 'SUCCEEDED' ? $parse($states.result.Output).batchItemFailures.itemIdentifier;
  $states.result.Status = 'TIMED_OUT' ? [$plan.messages] : [$plan.messages[message_id in $ids]]
) %}""")
_ELAPSED = "($toMillis($states.context.State.EnteredTime) - $began) / 1000"


class BatchStates:
    """The states; those of each source have its name.

    Variables: ``plan``, what the function said; ``pace``, the seconds that a batch takes at least; ``began``, when it
    began; ``left``, the messages for the queue.

    Parameters
    ----------
    scope
        The construct that has the states.
    planner
        The function that says what is to be scored.
    workflow
        The pipeline's.
    queue_url
        The trigger's queue.
    """

    def __init__(
        self, scope: Construct, *, planner: StageFunction, workflow: InferenceWorkflow, queue_url: str
    ) -> None:
        self._scope = scope
        self._planner = planner
        self._workflow = workflow
        self._queue_url = queue_url

    def first(self, source: str) -> sfn.IChainable:
        """Return the first state for the objects of a source.

        Input: ``{"Items": [...], "BatchInput": {"wanted": ...}}``, where ``wanted`` is the input of the backfill.
        Output: how many objects were ``listed``, ``left_out``, ``skipped``, ``gone``, ``sent`` to the workflow, and
        ``queued`` since it gave them back.
        """

        def named(name: str) -> str:
            return f"{name} ({source})"

        plan = self._planner.task(
            self._scope,
            named("Plan"),
            payload={
                "items": "{% [$states.input.Items] %}",
                "run": "{% $states.context.Execution.Name %}",
                "encoded": source == "inventory",
                "since": f"{{% {_WANTED}.since %}}",
                "models": f"{{% {_WANTED}.models %}}",
                "again": f"{{% {_WANTED}.again %}}",
            },
            assign={
                "plan": "{% $states.result.Payload %}",
                "pace": f"{{% {_WANTED}.pace %}}",
                "began": "{% $toMillis($states.context.Execution.StartTime) %}",
                "left": [],
            },
            output={},
        )
        # S3 or DynamoDB throttled it, or did not answer.
        plan.add_retry(errors=[sfn.Errors.ALL], interval=Duration.seconds(2), max_attempts=3, backoff_rate=3)
        score = self._score(named("Score batch"))
        failed = sfn.Fail.jsonata(
            self._scope,
            named("Failed"),
            error="{% $states.input.error = '' ? 'WorkflowFailed' : $states.input.error %}",
            cause="{% $states.input.cause = '' ? 'the workflow of the pipeline failed' : $states.input.cause %}",
        )
        queue = self._queue(named("Queue the rest"), named("Send"))
        done = sfn.Pass.jsonata(
            self._scope,
            named("Done"),
            outputs={
                "listed": "{% $plan.listed %}",
                "left_out": "{% $plan.left_out %}",
                "skipped": "{% $plan.skipped %}",
                "gone": "{% $plan.gone %}",
                "sent": "{% $count($plan.messages) %}",
                "queued": "{% $count($left) %}",
            },
        )
        pace = sfn.CustomState(
            self._scope,
            named("Keep the pace"),
            state_json={"Type": "Wait", "Seconds": f"{{% $max([0, $ceil($pace - {_ELAPSED})]) %}}"},
        )
        pace.next(done)
        queue.next(pace)
        anything = sfn.Choice.jsonata(self._scope, named("Anything to score?"))
        anything.when(sfn.Condition.jsonata("{% $count($plan.messages) > 0 %}"), score)
        anything.otherwise(done)
        scored = sfn.Choice.jsonata(self._scope, named("Scored?"))
        scored.when(sfn.Condition.jsonata("{% $states.input.status = 'FAILED' %}"), failed)
        scored.when(sfn.Condition.jsonata("{% $count($left) > 0 %}"), queue)
        scored.otherwise(pace)
        score.add_catch(
            queue,
            errors=["States.Timeout", *state_errors("states:StartSyncExecution", Kind.BUSY)],
            assign={"left": "{% [$plan.messages] %}"},
        )
        score.next(scored)
        return plan.next(anything)

    def _score(self, name: str) -> sfn.CustomState:
        state = sfn.CustomState(
            self._scope,
            name,
            state_json={
                "Type": "Task",
                # The optimized integration cannot wait for an express workflow.
                "Resource": f"arn:{Stack.of(self._scope).partition}:states:::aws-sdk:sfn:startSyncExecution",
                "Arguments": {
                    "StateMachineArn": self._workflow.state_machine.state_machine_arn,
                    "Input": "{% $string([$plan.messages]) %}",
                },
                "TimeoutSeconds": _MOST_SECONDS,
                "Assign": {"left": _LEFT},
                "Output": {
                    "status": "{% $states.result.Status %}",
                    "error": "{% $exists($states.result.Error) ? $states.result.Error : '' %}",
                    "cause": "{% $exists($states.result.Cause) ? $states.result.Cause : '' %}",
                },
            },
        )
        state.add_retry(
            errors=list(state_errors("states:StartSyncExecution", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=4,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return state

    def _queue(self, name: str, send_name: str) -> sfn.Map:
        """Put messages into the queue of the trigger, where they are like those of new objects."""
        send = sfn.CustomState(
            self._scope,
            send_name,
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self._scope).partition}:states:::sqs:sendMessage",
                "Arguments": {
                    "QueueUrl": self._queue_url,
                    "MessageBody": "{% $string($states.input.body) %}",
                },
                "Output": {},
            },
        )
        send.add_retry(
            errors=list(state_errors("sqs:SendMessage", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=3,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        send_all = sfn.Map.jsonata(
            self._scope, name, items=sfn.ProvideItems.jsonata("{% [$left] %}"), max_concurrency=_AT_ONCE, outputs={}
        )
        send_all.item_processor(send)
        return send_all
