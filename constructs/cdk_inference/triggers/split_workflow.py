"""The workflow that takes a large object apart: a distributed map over its chunks, and a file of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import ArnFormat, Aws, Duration, Fn, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common import acknowledgments
from cdk_inference.common.jsonata import SAID
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.stages.base import TRANSIENT_ERRORS
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption
from cdk_inference.triggers.base import dead_letter

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from aws_cdk import aws_s3 as s3
    from constructs import Construct

    from cdk_inference.stages.base import StageFunction
    from cdk_inference.triggers.base import IS3Trigger

SPLITS = "splits"
"""The folder of the bucket for lists of chunks."""

_BROKEN = ("CorruptObjectError", "ObjectGoneError")
"""Errors of the runtime that say that the object is to blame."""

_TOO_MUCH = "States.DataLimitExceeded"

_PAUSE_SECONDS = 60
_MOST_PAUSES = 120  # a chunk or a file of results waits for two hours at most, until its object is a dead letter
_FIRST_LOOK, _LONGEST_PAUSE = 30, 900  # seconds until the rows are looked at, doubled each time
_MOST_REASON = 60  # characters of a chunk's error: the results of a map must fit 256 KiB
_LIMIT_DAYS = 30  # ends what hangs


@check_props
class SplitWorkflow(LoggedStateMachine):
    """A standard state machine that takes an object apart in chunks; made by `S3ItemsTrigger`.

    Input: ``{"object", "message", "chunks": {"bucket", "key", "count"}, "names", "versions"}``. A distributed map gives
    each chunk of the list to a function, which sends the items. A chunk whose function is throttled, or which meets a
    service that is out of order, waits for up to two hours. When all have ended and one of them failed, the object's
    message goes to the dead-letter queue, and the execution fails. With a collecting function, the workflow then waits
    until the items have rows.

    Parameters
    ----------
    objects
        The trigger for the objects, which has the dead-letter queue.
    bucket
        Where the lists of chunks are.
    chunk
        The function that takes a chunk apart.
    collect
        The function that writes a file with the results. Default: none is written.
    max_concurrency
        Most chunks of an object at the same time.
    max_wait
        How long items are waited for, if there is a collecting function.
    encryption_key, log_retention, log_removal_policy
        As those of `InferenceWorkflow`.

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
        objects: IS3Trigger,
        bucket: s3.IBucket,
        chunk: StageFunction,
        collect: StageFunction | None,
        max_concurrency: int,
        max_wait: Duration,
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays,
        log_removal_policy: RemovalPolicy | None,
    ) -> None:
        super().__init__(scope, id)
        self._create(
            first_state=_Definition(self, objects.dead_letter_queue.queue_url).build(
                bucket, chunk, collect, max_concurrency=max_concurrency, max_wait=max_wait
            ),
            comment=f"takes large objects of {objects.node.path} apart",
            state_machine_type=sfn.StateMachineType.STANDARD,
            timeout=Duration.days(_LIMIT_DAYS),
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=log_removal_policy,
        )
        machine = self.state_machine
        for function in (chunk, collect):
            if function is not None:
                function.grant_invoke(machine)
        objects.grant_send_dead_letter(machine)
        # The rights that CDK's reader needs, and those of a distributed map.
        acknowledgments.by_pattern(
            machine.role.node.find_child("DefaultPolicy"),
            "objects-by-pattern",
            f"arn:{Aws.PARTITION}:s3:::{bucket.bucket_name}/*",
        )
        execution = f"arn:{Aws.PARTITION}:states:{Aws.REGION}:{Aws.ACCOUNT_ID}:execution"
        name = Fn.select(6, Fn.split(":", machine.state_machine_arn))
        policy = machine.node.find_child("DistributedMapPolicy")
        acknowledgments.by_pattern(policy, "executions-of-a-map", f"{execution}:{name}:*", f"{execution}:{name}/*:*")
        acknowledgments.explain(policy, "inline-policy")
        self._complete("split-state-machine")

    def grant_start(self, function: StageFunction) -> iam.Grant:
        """Let a function start executions, and ask how those ended that have the same name."""
        encryption.grant_executions(self.state_machine, self._key, function)
        executions = Stack.of(self).format_arn(
            service="states",
            resource="execution",
            resource_name=f"{self.state_machine.state_machine_name}:*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        described = iam.Grant.add_to_principal(
            grantee=function, actions=["states:DescribeExecution"], resource_arns=[executions]
        )
        acknowledgments.by_pattern(function.role.node.find_child("DefaultPolicy"), "executions-by-pattern", executions)
        return self.state_machine.grant_start_execution(function.role).combine(described)


class _Definition:
    """The states.

    Variables: ``message`` as in the input; ``failed``, what the chunks that failed say; ``superseded``, whether the
    object of one was overwritten; ``collected``, what the collecting function knows, and ``pause``, the seconds until
    it looks again; ``pauses``, how often it waited for services since they last answered. In a child: ``rest``, what is
    still to be taken apart of its chunk; ``items``, how many were sent; ``superseded``; ``pauses``, how often it
    waited.
    """

    def __init__(self, scope: Construct, dead_letters: str) -> None:
        self._scope = scope
        self._failed = self._send_dead_letter(dead_letters)

    def build(
        self,
        bucket: s3.IBucket,
        chunk: StageFunction,
        collect: StageFunction | None,
        *,
        max_concurrency: int,
        max_wait: Duration,
    ) -> sfn.IChainable:
        """Return the first state."""
        receive = sfn.Pass.jsonata(
            self._scope,
            "Receive",
            assign={
                "message": "{% $states.input.message %}",
                **({} if collect is None else {"collected": "{% null %}", "pause": _FIRST_LOOK, "pauses": 0}),
            },
        )
        split = sfn.DistributedMap.jsonata(
            self._scope,
            "Split",
            item_reader=sfn.S3JsonLItemReader(bucket=bucket, key="{% $states.input.chunks.key %}"),
            # Standard, so that a chunk may take as long as it has to.
            map_execution_type=sfn.StateMachineType.STANDARD,
            max_concurrency=max_concurrency,
            outputs={"items": "{% $sum([0, $states.result.items]) %}", "chunks": "{% $count($states.result) %}"},
            assign={
                "failed": "{% [$states.result[$exists(error)]] %}",
                "superseded": "{% $exists($states.result.superseded) %}",
            },
        )
        split.item_processor(self._child(chunk))
        split.add_retry(errors=["States.ItemReaderFailed"], interval=Duration.seconds(5), max_attempts=3)
        # `States.ALL` does not mean that one, which comes alone.
        split.add_catch(self._failed, errors=[_TOO_MUCH])
        split.add_catch(self._failed, errors=[sfn.Errors.ALL])
        all_split = sfn.Choice.jsonata(self._scope, "All chunks split?")
        all_split.when(
            sfn.Condition.jsonata("{% $count($failed) > 0 %}"),
            self._failed,
            comment="a chunk failed",
            outputs={
                "Error": "{% $failed[0].error %}",
                "Cause": "{% $count($failed) & ' of ' & $states.input.chunks & ' chunks failed: ' "
                "& $failed[0].cause %}",
            },
        )
        done = sfn.Succeed.jsonata(self._scope, "Done")
        if collect is None:
            all_split.otherwise(done)
        else:
            # The newer object gets the file: this one has no names of the items that were not sent.
            all_split.when(sfn.Condition.jsonata("{% $superseded %}"), done, comment="overwritten meanwhile")
            all_split.otherwise(self._collect(collect, max_wait, done))
        return receive.next(split).next(all_split)

    def _child(self, function: StageFunction) -> sfn.IChainable:
        """Return the first state of a chunk: its function takes it apart in one go, or says what is left."""
        take = sfn.Pass.jsonata(
            self._scope,
            "Take chunk",
            assign={"rest": "{% $states.input %}", "items": 0, "superseded": False, "pauses": 0},
        )
        split = function.task(
            self._scope,
            "Split chunk",
            payload="{% $rest %}",
            assign={
                "items": "{% $items + $states.result.Payload.items %}",
                "rest": "{% $states.result.Payload.rest %}",
                "superseded": "{% $states.result.Payload.superseded = true %}",
            },
            output={},
        )
        split.add_retry(errors=list(_BROKEN), max_attempts=0)
        split.add_retry(errors=[sfn.Errors.ALL], interval=Duration.seconds(5), max_attempts=3, backoff_rate=3)
        failed = sfn.Pass.jsonata(
            self._scope,
            "Chunk failed",
            outputs={
                "items": "{% $items %}",
                "error": "{% $states.input.Error %}",
                "cause": f"{{% $substring({SAID}, 0, {_MOST_REASON}) %}}",
            },
        )
        patient = sfn.Choice.jsonata(self._scope, "Wait for services?")
        pause = self._wait("Wait for services", _PAUSE_SECONDS, {"pauses": "{% $pauses + 1 %}"})
        patient.when(sfn.Condition.jsonata(f"{{% $pauses < {_MOST_PAUSES} %}}"), pause).otherwise(failed)
        split.add_catch(patient, errors=list(TRANSIENT_ERRORS))
        split.add_catch(failed, errors=[sfn.Errors.ALL])
        pause.next(split)
        more = sfn.Choice.jsonata(self._scope, "More of the chunk?")
        more.when(sfn.Condition.jsonata("{% $type($rest) = 'object' %}"), split, comment="its time ran low")
        sent = "{% $superseded ? {'items': $items, 'superseded': true} : {'items': $items} %}"
        more.otherwise(sfn.Pass.jsonata(self._scope, "Chunk split", outputs=sent))
        split.next(more)
        return take.next(split)

    def _collect(self, function: StageFunction, max_wait: Duration, done: sfn.IChainable) -> sfn.IChainable:
        """Return the first of the states that wait until the items have rows, and write them down."""
        wait = self._wait("Wait for rows", "{% $pause %}", {"pause": f"{{% $min([2 * $pause, {_LONGEST_PAUSE}]) %}}"})
        limit = int(max_wait.to_milliseconds())
        waited = "$toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime)"
        collect = function.task(
            self._scope,
            "Collect",
            payload={
                "execution": "{% $states.context.Execution.Input %}",
                "state": "{% $collected %}",
                "late": f"{{% {waited} > {limit} %}}",
            },
            assign={"collected": "{% $states.result.Payload.state %}", "pauses": 0},
            output={
                "done": "{% $states.result.Payload.done %}",
                "again": "{% $states.result.Payload.again = true %}",
            },
        )
        collect.add_retry(errors=[sfn.Errors.ALL], interval=Duration.seconds(5), max_attempts=3, backoff_rate=3)
        patient = sfn.Choice.jsonata(self._scope, "Wait for services to write?")
        pause = self._wait("Wait for services to write", _PAUSE_SECONDS, {"pauses": "{% $pauses + 1 %}"})
        patient.when(sfn.Condition.jsonata(f"{{% $pauses < {_MOST_PAUSES} %}}"), pause).otherwise(self._failed)
        pause.next(collect)
        collect.add_catch(patient, errors=list(TRANSIENT_ERRORS))
        collect.add_catch(self._failed, errors=[sfn.Errors.ALL])
        all_rows = sfn.Choice.jsonata(self._scope, "All rows written?")
        all_rows.when(sfn.Condition.jsonata("{% $states.input.done %}"), done)
        all_rows.when(sfn.Condition.jsonata("{% $states.input.again %}"), collect, comment="its time ran low")
        all_rows.otherwise(wait)
        wait.next(collect)
        collect.next(all_rows)
        return wait

    def _wait(self, name: str, seconds: int | str, assign: dict[str, str]) -> sfn.CustomState:
        return sfn.CustomState(
            self._scope, name, state_json={"Type": "Wait", "Seconds": seconds, "Assign": assign, "Output": {}}
        )

    def _send_dead_letter(self, queue_url: str) -> sfn.IChainable:
        """Return the first of the states that keep the object's message, with the reason, and fail the execution.

        A message that is sent back from the dead-letter queue starts another execution, since this one failed.
        """
        why = sfn.Pass.jsonata(
            self._scope,
            "Object failed",
            assign={"error": "{% $states.input.Error %}", "cause": f"{{% {SAID} %}}"},
            outputs={},
        )
        send = sfn.CustomState(
            self._scope,
            "Send dead letter",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self._scope).partition}:states:::sqs:sendMessage",
                "Arguments": dead_letter(queue_url, body="{% $message %}", error="{% $error %}", cause="{% $cause %}"),
                "Output": {},
            },
        )
        send.add_retry(
            errors=list(state_errors("sqs:SendMessage", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=10,
            backoff_rate=2,
            max_delay=Duration.minutes(5),
            jitter_strategy=sfn.JitterType.FULL,
        )
        failed = sfn.Fail.jsonata(self._scope, "Failed", error="{% $error %}", cause="{% $cause %}")
        why.next(send).next(failed)
        return why
