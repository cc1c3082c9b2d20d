"""The workflow: preprocess, infer and postprocess a batch, and find the item that kills its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_cdk import Duration, Stack, Token, Tokenization
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.jsonata import EMPTY
from cdk_inference.common.metadata import mark
from cdk_inference.common.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.errors import PropError
from cdk_inference.routing.strategies import text
from cdk_inference.stages.base import CONFIGURATION_ERRORS, NO_MODEL, TRANSIENT_ERRORS
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import STATE_MACHINE_LOGS, log_group
from cdk_inference.triggers.s3 import dead_letter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms

    from cdk_inference.gpu.inference import GpuInference
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.routing.router import Router
    from cdk_inference.routing.strategies import Escalation
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.triggers.s3 import S3Trigger


PARTS = 4
"""How many parts of a batch are scored at the same time, and into how many a batch is split whose invocation died."""

_BURYING = 10_000  # milliseconds that are kept for the dead letters
_NULL = "{% null %}"
# Lambda's cause is JSON, of which the message is what a reader of a dead letter wants. Backslashes by number: JSONata
# looks for the end of a regular expression without regard to escaped brackets.
_SAID = (
    r"""($cause := $states.input.Cause & ''; """
    r"""$said := $match($cause, /"errorMessage": ?"((?:[^"\x5c]|\x5c.)*)/)[0].groups[0]; """
    r"""$substring($said ? $replace($said, /\x5c(.)/, "$1") : $cause ? $cause : "no cause is known", 0, 1000))"""
)
_REPAIR = {"error": "{% $states.input.Error %}", "cause": f"{{% {_SAID} %}}"}
# Lambda refuses by an error that Step Functions knows no name for, and says so in the cause alone.
_DENIED = (
    f"{{% [$contains($states.input.Cause & '', 'AccessDenied') ? {{'error': 'AccessDenied', 'cause': {_SAID}}}] %}}"
)
# The message's own text is gone, as the pipe parses it: what was JSON is JSON again.
_BODY = (
    "($message := $messages[message_id = $states.input.message_id]; "
    "$body := $exists($message.body) ? $message.body : $sift($message, function($value, $name) "
    "{ $not($name in ['message_id', 'receive_count']) }); $type($body) = 'string' ? $body : $string($body))"
)


@check_props
@dataclass(frozen=True, kw_only=True)
class Leg:
    """The stages that items of one route go through.

    Parameters
    ----------
    preprocess, inference, postprocess
        The stages.
    name
        What its states and rows are called by. Default: nothing, for a workflow that has one leg.
    route
        The route's name on the rows. Default: none.
    gpu_workflow
        Who takes over after preprocessing, if inference is slow.
    escalation
        If it is the first leg of a cascade.
    """

    preprocess: StageFunction
    inference: StageFunction | GpuInference
    postprocess: StageFunction
    name: str = ""
    route: str | None = None
    gpu_workflow: GpuWorkflow | None = None
    escalation: Escalation | None = None

    @property
    def express_stages(self) -> list[StageFunction | GpuInference]:
        """The stages that the express workflow itself invokes."""
        return [self.preprocess, *([] if self.gpu_workflow else [self.inference]), self.postprocess]


@check_props
@dataclass(frozen=True, kw_only=True)
class FusedLeg:
    """The one function that items of a route go through.

    Parameters
    ----------
    score
        The function: it does what the three stages of a `Leg` do.
    name
        What its state is called by. Default: nothing, for a workflow that has one leg.
    route
        The route's name on the rows. Default: none.
    """

    score: StageFunction
    name: str = ""
    route: str | None = None

    @property
    def express_stages(self) -> list[StageFunction]:
        """The stages that the express workflow itself invokes."""
        return [self.score]


@check_props
class InferenceWorkflow(Construct):
    """An express state machine that takes a batch of messages through the stages.

    Input: a list of ``{"message_id", "receive_count", "body"}``, as `S3Trigger` sends it. Output:
    ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``, the messages that must be tried again.

    The stages handle the errors of single items themselves. When an invocation dies as a whole (out of memory, a
    crash, a timeout), the batch is split into four parts, which are scored at the same time, each with its items
    isolated from each other; what dies then is split into single items. An item that still dies fails alone. Messages
    that came back are kept from new ones, and isolated at once.

    An item that fails by itself is given back to the queue; with a trigger, it goes to the dead-letter queue with its
    error once it has been delivered ``max_receive_count`` times. When Lambda or another service is not available,
    items are given back however often that happens. So is what is left when the time might not suffice for another
    part: an execution that ran out of time would report its finished part as failed too. When something must be
    repaired, such as a missing permission, the execution fails at its end, and its messages stay in the queue.

    With several legs, items are sorted by destination first, and each part is a batch of its own. What the first leg of
    a cascade is not sure of becomes a batch of the second. A leg on a GPU ends after preprocessing: a workflow that may
    wait takes over. A fused leg has one state, "Score".

    Parameters
    ----------
    legs
        What items can go through: a `Leg` or a `FusedLeg` for each route.
    router
        Sorts the items, if there is more than one leg.
    trigger
        Whose dead-letter queue takes what fails by itself too often. Default: all of it is given back, and the queue
        that the messages come from decides.
    timeout
        Of one execution, at most 5 minutes. Default: 5 minutes.
    encryption_key
        Customer managed key of the log group, the definition and the executions. Default: AWS encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    state_machine
        The state machine, for everything this construct does not cover.

    Raises
    ------
    PropError
        A leg is slow and nobody takes over, its timeouts do not fit into the workflow's, or there are several legs and
        nothing to sort by.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        legs: Sequence[Leg | FusedLeg],
        router: Router | None = None,
        trigger: S3Trigger | None = None,
        timeout: Duration | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        limit = timeout if timeout is not None else Duration.minutes(5)
        _check_legs(legs, router, limit)
        self.log_group = log_group(
            self,
            key=encryption_key,
            retention=log_retention,
            removal_policy=log_removal_policy,
            folder=STATE_MACHINE_LOGS,
        )
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            comment=f"scores batches of objects with {', '.join(_model_stage(leg).node.path for leg in legs)}",
            definition_body=sfn.DefinitionBody.from_chainable(
                _Definition(self, last_start=_last_start(limit, legs), trigger=trigger).build(
                    legs, router, at_once=_at_once(legs)
                )
            ),
            query_language=sfn.QueryLanguage.JSONATA,
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=limit,
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=self.log_group, level=sfn.LogLevel.ERROR, include_execution_data=False),
        )
        for leg in legs:
            for stage in leg.express_stages:
                stage.grant_invoke(self.state_machine)
            if isinstance(leg, Leg) and leg.gpu_workflow is not None:
                leg.gpu_workflow.grant_start_execution(self.state_machine)
        if router is not None:
            router.grant(self.state_machine)
        if trigger is not None:
            trigger.leave_dead_letters_to(self.state_machine)
        self._key = encryption_key
        encryption.encrypt_executions(self.state_machine, encryption_key)
        mark(self.state_machine, "state-machine")
        acknowledgments.explain(self.state_machine, "errors-logged-only")
        acknowledgments.policy_of(self.state_machine.role, "tracing-and-log-delivery")

    def grant_start_sync_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee run a batch and wait for the answer."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
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


class _Definition:
    """The states; no part of a batch is started after ``last_start`` milliseconds.

    Variables: ``messages``, the whole input; ``parts`` still to do, each with the ``ids`` of its messages, whether to
    ``isolate`` them and, with a router, its destination; ``back``, the ids of the messages to try again; ``failed``,
    what failed by itself, with error and cause; ``misconfigured``, errors that somebody must repair; ``answers`` of a
    cascade's first model by id. Within the map over the parts: ``batch``, the messages of the part, ``isolate``,
    ``destination`` and ``variant``; ``items`` and ``rejected``, and in ``prepared`` what else preprocessing said.
    Only ids leave the map, so that its result stays small. JSONata drops the brackets of a list of one, hence the
    ``[…]`` around lists.
    """

    def __init__(self, scope: Construct, *, last_start: int, trigger: S3Trigger | None) -> None:
        self._scope = scope
        self._last_start = last_start
        self._trigger = trigger
        self._routed = False
        self._give_back = sfn.Pass.jsonata(
            scope, "Give back part", outputs={"back": "{% [$batch.message_id] %}", "misconfigured": _DENIED}
        )
        self._repair = sfn.Pass.jsonata(
            scope, "Ask for repair", outputs={"back": "{% [$batch.message_id] %}", "misconfigured": [_REPAIR]}
        )
        self._died = sfn.Choice.jsonata(scope, "More than one item?")

    def build(self, legs: Sequence[Leg | FusedLeg], router: Router | None, *, at_once: int) -> sfn.IChainable:
        """Return the first state."""
        self._routed = router is not None
        entry = None if router is None else router.plan.entry
        receive = sfn.Pass.jsonata(
            self._scope,
            "Receive",
            assign={
                "messages": "{% $states.input %}",
                # An object that came back may have killed its invocation, and is kept from those that are new.
                "parts": f"{{% {_received(entry)} %}}",
                "back": [],
                "failed": [],
                "misconfigured": [],
                "answers": {},
            },
        )
        score = sfn.Map.jsonata(
            self._scope,
            "Score parts",
            items=sfn.ProvideItems.jsonata("{% [$parts] %}"),
            max_concurrency=at_once,
            outputs={},
            assign={
                "parts": "{% [$states.result.parts] %}",
                "back": "{% [$append($back, $states.result.back)] %}",
                "failed": "{% [$append($failed, $states.result.failed)] %}",
                "misconfigured": "{% [$append($misconfigured, $states.result.misconfigured)] %}",
                "answers": "{% $merge([$answers, $states.result.answers.{message_id: answer}]) %}",
            },
        )
        score.item_processor(self._part(legs, router))
        more = sfn.Choice.jsonata(self._scope, "More to do?")
        more.when(sfn.Condition.jsonata("{% $count($parts) > 0 %}"), score, comment="parts are left")
        more.when(
            sfn.Condition.jsonata("{% $count($misconfigured) > 0 %}"),
            # The execution fails, so that the workflow's alarm says so; all of its messages stay in the queue.
            sfn.Fail.jsonata(
                self._scope,
                "Misconfigured",
                error="Misconfigured",
                cause="{% $misconfigured[0].error & ': ' & $misconfigured[0].cause %}",
            ),
            comment="somebody must repair something",
        )
        report = sfn.Pass.jsonata(
            self._scope,
            "Report failures",
            outputs={"batchItemFailures": "{% [$append($back, $failed.message_id).{'itemIdentifier': $}] %}"},
        )
        if self._trigger is not None:
            bury = self._bury(self._trigger)
            more.when(sfn.Condition.jsonata("{% $count($failed) > 0 %}"), bury, comment="some failed by themselves")
            bury.next(report)
        more.otherwise(report)
        receive.next(score).next(more)
        return receive

    def _part(self, legs: Sequence[Leg | FusedLeg], router: Router | None) -> sfn.IChainable:
        """Return the first of the states that a part goes through; the last one says what became of it."""
        take = sfn.Pass.jsonata(
            self._scope,
            "Take part",
            assign={
                "batch": "{% [$messages[message_id in $states.input.ids].($answer := $lookup($answers, message_id); "
                "$exists($answer) ? $merge([$, {'first': $answer}]) : $)] %}",
                "isolate": "{% $states.input.isolate %}",
                **({"destination": "{% $states.input.destination %}", "variant": _NULL} if self._routed else {}),
            },
        )
        time_left = sfn.Choice.jsonata(self._scope, "Time left?")
        time_left.when(
            sfn.Condition.jsonata(
                "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
                f"> {self._last_start} %}}"
            ),
            self._give_back,
            outputs={"Cause": EMPTY},
        )
        entries = {leg.name: self._leg(leg) if isinstance(leg, Leg) else self._fused(leg) for leg in legs}
        if router is None:
            (entry,) = entries.values()
            time_left.otherwise(entry)
        else:
            time_left.otherwise(router.states(self._scope, entries, on_error=self._catch))
        self._split()
        return take.next(time_left)

    def _split(self) -> None:
        """Split the part whose invocation died; what dies alone is to blame."""
        whole = _json_part("[message_id]", routed=self._routed)
        some = _json_part("[$batch[[$n * $size..($n + 1) * $size - 1]].message_id]", routed=self._routed)
        split = sfn.Pass.jsonata(
            self._scope,
            "Split part",
            outputs={
                "parts": "{% $isolate "
                f"? [$batch.{whole}] "
                f": ($size := $ceil($count($batch) / {PARTS}); "
                f"[$map([0..$ceil($count($batch) / $size) - 1], function($n) {{ {some} }})]) %}}"
            },
        )
        fail_item = sfn.Pass.jsonata(
            self._scope,
            "Fail item",
            outputs={
                "failed": [
                    {
                        "message_id": "{% $batch[0].message_id %}",
                        "error": "{% $states.input.Error %}",
                        "cause": f"{{% {_SAID} %}}",
                    }
                ]
            },
        )
        self._died.when(sfn.Condition.jsonata("{% $count($batch) > 1 %}"), split).otherwise(fail_item)

    def _bury(self, trigger: S3Trigger) -> sfn.Chain:
        """Put what failed often enough into the dead-letter queue, with the reason, and give back the rest."""
        tries = Tokenization.stringify_number(trigger.max_receive_count)
        tried = f"$number($messages[message_id = $one.message_id].receive_count) >= {tries}"
        choose = sfn.Pass.jsonata(
            self._scope,
            "Choose dead letters",
            assign={
                "dead": f"{{% [$filter($failed, function($one) {{ {tried} }})] %}}",
                "failed": f"{{% [$filter($failed, function($one) {{ {tried} ? false : true }})] %}}",
            },
        )
        send = sfn.CustomState(
            self._scope,
            "Send dead letter",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self._scope).partition}:states:::sqs:sendMessage",
                "Arguments": dead_letter(
                    trigger.dead_letter_queue.queue_url,
                    body=f"{{% {_BODY} %}}",
                    error="{% $states.input.error %}",
                    cause="{% $states.input.cause %}",
                ),
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
        keep = sfn.Pass.jsonata(self._scope, "Keep message", outputs={"back": "{% $kept %}"})
        send.add_catch(keep, errors=[sfn.Errors.ALL], assign={"kept": "{% $states.input.message_id %}"})
        bury = sfn.Map.jsonata(
            self._scope,
            "Bury",
            items=sfn.ProvideItems.jsonata("{% [$dead] %}"),
            max_concurrency=PARTS,
            outputs={},
            assign={"back": "{% [$append($back, $states.result.back)] %}"},
        )
        bury.item_processor(send)
        return choose.next(bury)

    def _leg(self, leg: Leg) -> sfn.CustomState:
        """Return the first state of a leg."""
        label = f"{leg.name}: " if leg.name else ""
        preprocessing = leg.preprocess.task(
            self._scope,
            f"{label}Preprocess",
            payload={"messages": "{% $batch %}", "isolate": "{% $isolate %}"},
            assign={
                "items": "{% [$states.result.Payload.items] %}",
                "rejected": "{% [$states.result.Payload.rejected] %}",
                "prepared": {
                    name: f"{{% [$states.result.Payload.{name}] %}}" for name in ("retry", "failed", "unfinished")
                },
            },
            output={"groups": "{% [$states.result.Payload.groups] %}"},
        )
        any_left = sfn.Choice.jsonata(self._scope, f"{label}Anything to score?")
        escalated = "[$states.result.Payload.unsure.message_id]"
        postprocessing = leg.postprocess.task(
            self._scope,
            f"{label}Postprocess",
            # The output of the stage before: groups, inference and the version of the model.
            payload=_postprocess_payload(leg),
            output={
                "back": "{% [$append($prepared.retry, $states.result.Payload.retry)] %}",
                "failed": "{% [$append($prepared.failed, $states.result.Payload.failures)] %}",
                "parts": self._parts("[$prepared.unfinished]")
                if leg.escalation is None
                else self._parts("[$prepared.unfinished]", **{escalated: leg.escalation.then}),
                **({"answers": "{% [$states.result.Payload.unsure] %}"} if leg.escalation else {}),
            },
        )
        score = self._hand_over(leg, label) if leg.gpu_workflow else self._infer(leg, label, postprocessing)
        preprocessing.next(any_left)
        any_left.when(
            sfn.Condition.jsonata("{% $count($states.input.groups) = 0 %}"),
            postprocessing,
            # The rows of rejected objects say which model they were meant for.
            outputs={"groups": [], "inference": "none", "model_version": leg.inference.model_version or NO_MODEL},
        ).otherwise(score)
        self._catch(preprocessing)
        self._catch(postprocessing)
        return preprocessing

    def _fused(self, leg: FusedLeg) -> sfn.CustomState:
        routed = {} if leg.route is None else {"route": leg.route, "variant": "{% $variant %}"}
        score = leg.score.task(
            self._scope,
            f"{leg.name}: Score" if leg.name else "Score",
            payload={"messages": "{% $batch %}", "isolate": "{% $isolate %}", **routed},
            output={
                "back": "{% [$states.result.Payload.retry] %}",
                "failed": "{% [$states.result.Payload.failures] %}",
                "parts": self._parts("[$states.result.Payload.unfinished]"),
            },
        )
        self._catch(score)
        return score

    def _parts(self, unfinished: str, **escalated: str) -> str:
        """Return the expression for parts of what was not begun, and of ids that go to other destinations."""
        again = f"$count({unfinished}) > 0 ? {_json_part(unfinished, routed=self._routed, isolate='$isolate')}"
        others = [
            f"$count({ids}) > 0 ? {_json_part(ids, routed=True, destination=text(destination), isolate='$isolate')}"
            for ids, destination in escalated.items()
        ]
        return f"{{% [{', '.join([again, *others])}] %}}"

    def _infer(self, leg: Leg, label: str, postprocessing: sfn.CustomState) -> sfn.CustomState:
        infer = leg.inference.task(
            self._scope,
            f"{label}Infer",
            payload={"groups": "{% [$states.input.groups] %}"},
            output="{% $states.result.Payload %}",
        )
        self._catch(infer)
        infer.next(postprocessing)
        return infer

    def _hand_over(self, leg: Leg, label: str) -> sfn.CustomState:
        """Start the workflow that may wait, and be done with the batch: from then on it answers for the items."""
        if leg.gpu_workflow is None:
            raise AssertionError("asked before")
        done = {
            "back": "{% [$prepared.retry] %}",
            "failed": "{% [$prepared.failed] %}",
            "parts": self._parts("[$prepared.unfinished]"),
        }
        start = leg.gpu_workflow.start_task(
            self._scope,
            f"{label}Hand over",
            input={
                "items": "{% $items %}",
                "rejected": "{% $rejected %}",
                "groups": "{% [$states.input.groups] %}",
                **_about(leg),
            },
            output=done,
        )
        again = sfn.Pass.jsonata(self._scope, f"{label}Handed over before", outputs=done)
        # The same messages were delivered twice: the execution of that name has them.
        start.add_catch(again, errors=[*state_errors("states:StartExecution", Kind.DONE), "ExecutionAlreadyExists"])
        start.add_catch(self._give_back, errors=list(state_errors("states:StartExecution", Kind.BUSY)))
        start.add_catch(self._repair, errors=list(state_errors("states:StartExecution", Kind.CONFIGURATION)))
        start.add_catch(self._died, errors=[sfn.Errors.ALL])
        return start

    def _catch(self, state: sfn.CustomState) -> None:
        state.add_catch(self._give_back, errors=list(TRANSIENT_ERRORS))
        state.add_catch(self._repair, errors=list(CONFIGURATION_ERRORS))
        state.add_catch(self._died, errors=[sfn.Errors.ALL])


def _received(entry: str | None) -> str:
    """Return the expression for the first parts: what came for the first time, and what came back."""
    times = "($exists(receive_count) ? $number(receive_count) : 1)"
    parts = []
    for condition, isolate in (("= 1", "false"), ("> 1", "true")):
        ids = f"[$states.input[{times} {condition}].message_id]"
        part = _json_part(ids, routed=entry is not None, destination=text(entry or ""), isolate=isolate)
        parts.append(f"$count({ids}) > 0 ? {part}")
    return f"[{', '.join(parts)}]"


def _json_part(ids: str, *, routed: bool, destination: str = "$destination", isolate: str = "true") -> str:
    """Return the JSONata of a part, whose ids are an expression."""
    sent = f", 'destination': {destination}" if routed else ""
    return f"{{'ids': {ids}, 'isolate': {isolate}{sent}}}"


def _about(leg: Leg) -> Mapping[str, object]:
    """Return what the rows of a routed pipeline say besides the prediction."""
    if leg.route is None:
        return {}
    return {
        "first": "{% $merge([{}, $batch[$exists(first)].{message_id: first}]) %}",
        "route": leg.route,
        "variant": "{% $variant %}",
    }


def _postprocess_payload(leg: Leg) -> str:
    members = "'items': $items, 'rejected': $rejected"
    if leg.route is not None:
        members += (
            f", 'route': '{leg.route}', 'variant': $variant, "
            "'first': $merge([{}, $batch[$exists(first)].{message_id: first}])"
        )
    if leg.escalation is not None:
        members += (
            f", 'row_version': '{leg.escalation.row_version}', "
            f"'unsure': [$states.input.confidences[confidence < {leg.escalation.threshold}]]"
        )
    return f"{{% $merge([$states.input, {{{members}}}]) %}}"


def _model_stage(leg: Leg | FusedLeg) -> StageFunction | GpuInference:
    return leg.inference if isinstance(leg, Leg) else leg.score


def _check_legs(legs: Sequence[Leg | FusedLeg], router: Router | None, limit: Duration) -> None:
    if not legs or (len(legs) > 1 and router is None):
        raise PropError(f"legs has {len(legs)} members and there is no router; give one leg, or a router that chooses")
    for leg in legs:
        stage = _model_stage(leg)
        if stage.slow and (isinstance(leg, FusedLeg) or leg.gpu_workflow is None):
            raise PropError(
                f"{stage.node.path} is slow: an express workflow ends after 5 minutes, and a GPU may take 20 "
                "to come; give the leg a gpu_workflow, which may wait"
            )
        longest = _longest(leg)
        if longest is not None and not limit.is_unresolved() and longest > limit.to_milliseconds():
            raise PropError(
                f"the stages of {stage.node.path} may take {longest // 1000} s, and the workflow ends after "
                f"{limit.to_seconds():g} s; give them shorter timeouts"
            )


def _at_once(legs: Sequence[Leg | FusedLeg]) -> int:
    """Return how many parts to score at a time: more than a function may run would only be throttled."""
    stages = [stage for leg in legs for stage in leg.express_stages]
    reserved: list[int | None] = [getattr(stage, "reserved_concurrent_executions", None) for stage in stages]
    return min([PARTS, *(one for one in reserved if one is not None and not Token.is_unresolved(one))])


def _last_start(timeout: Duration, legs: Sequence[Leg | FusedLeg]) -> int:
    """Return the milliseconds after which a part might not be done within the timeout, and half of that at least."""
    limit = int(timeout.to_milliseconds())
    longest = [_longest(leg) for leg in legs]
    if None in longest:
        return limit // 2
    return max(limit - max(one for one in longest if one is not None) - _BURYING, limit // 2)


def _longest(leg: Leg | FusedLeg) -> int | None:
    """Return the milliseconds that a part of a batch may take in a leg; None if that is not known yet."""
    if any(stage.timeout.is_unresolved() for stage in leg.express_stages):
        return None
    return sum(int(stage.timeout.to_milliseconds()) for stage in leg.express_stages)
