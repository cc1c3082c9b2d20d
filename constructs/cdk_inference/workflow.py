"""The workflow: preprocess, infer and postprocess a batch, and find the item that kills its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference import acknowledgments, encryption
from cdk_inference.errors import PropError
from cdk_inference.functions import TRANSIENT_ERRORS
from cdk_inference.metadata import mark
from cdk_inference.routing.strategies import text
from cdk_inference.storage import STATE_MACHINE_LOGS, log_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms

    from cdk_inference.functions import StageFunction
    from cdk_inference.gpu.inference import GpuInference
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.routing.router import Router
    from cdk_inference.routing.strategies import Escalation


_VARIANT = "{% $variant = '' ? null : $variant %}"


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


class InferenceWorkflow(Construct):
    """An express state machine that takes a batch of messages through the stages.

    Input: a list of ``{"message_id", "body"}``, as `S3Trigger` sends it. Output:
    ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``, the messages that must be tried again.

    The stages handle the errors of single items themselves. When an invocation dies as a whole (out of memory, a
    crash, a timeout), the batch is split in two and both halves are tried, until the item that kills it is alone: only
    that one fails. When Lambda or another service is not available, nothing can be learnt from halves: what is left is
    given back to the queue. So is what is left when the time might not suffice for another part: an execution that ran
    out of time would report its finished part as failed too.

    With several legs, items are sorted by destination first, and each part is a batch of its own. What the first leg of
    a cascade is not sure of becomes a batch of the second. A leg on a GPU ends after preprocessing: a workflow that may
    wait takes over. A fused leg has one state, "Score".

    Parameters
    ----------
    legs
        What items can go through: a `Leg` or a `FusedLeg` for each route.
    router
        Sorts the items, if there is more than one leg.
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
                _Definition(self, last_start=_last_start(limit, legs)).build(legs, router)
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
        self._key = encryption_key
        encryption.encrypt_executions(self.state_machine, encryption_key)
        mark(self.state_machine, "state-machine")
        acknowledgments.errors_logged_only(self.state_machine)
        acknowledgments.tracing_and_log_delivery(self.state_machine)

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

    Variables: ``pending``, the batches still to do, each with its destination once it has one; ``batch``, the messages
    of the one at hand, and ``destination`` and ``variant``; ``failures``, the ids of the messages to try again.
    JSONata drops the brackets of a list of one, hence the ``[…]`` around lists.
    """

    def __init__(self, scope: Construct, *, last_start: int) -> None:
        self._scope = scope
        self._last_start = last_start
        self._more = sfn.Choice.jsonata(scope, "More to do?")
        self._died = sfn.Choice.jsonata(scope, "More than one item?")
        self._give_back = sfn.Pass.jsonata(
            scope,
            "Give back the rest",
            assign={
                "failures": "{% [$append($append($failures, [$batch.message_id]), [$pending.messages.message_id])] %}",
                "pending": [],
            },
        )

    def build(self, legs: Sequence[Leg | FusedLeg], router: Router | None) -> sfn.IChainable:
        """Return the first state."""
        routed = router is not None
        # An empty destination is none yet.
        unrouted = {} if router is None else {"destination": router.plan.entry}
        variant = {} if router is None else {"variant": ""}
        receive = sfn.Pass.jsonata(
            self._scope,
            "Receive",
            assign={"pending": [{**unrouted, "messages": "{% $states.input %}"}], "failures": [], **variant},
        )
        take = sfn.Pass.jsonata(
            self._scope,
            "Take batch",
            assign={
                "batch": "{% [$pending[0].messages] %}",
                **({"destination": "{% $pending[0].destination %}"} if routed else {}),
                "pending": "{% [$filter($pending, function($batch, $index) { $index > 0 })] %}",
            },
        )
        entries = {leg.name: self._leg(leg) if isinstance(leg, Leg) else self._fused(leg) for leg in legs}
        receive.next(self._more)
        self._choose_part(take)
        if router is None:
            (entry,) = entries.values()
            take.next(entry)
        else:
            take.next(router.states(self._scope, entries, again=self._more, on_error=self._catch))
        self._bisect(routed=routed)
        self._give_back.next(self._more)
        return receive

    def _choose_part(self, take: sfn.Pass) -> None:
        done = sfn.Pass.jsonata(
            self._scope,
            "Report failures",
            outputs={"batchItemFailures": "{% [$failures.{'itemIdentifier': $}] %}"},
        )
        self._more.when(sfn.Condition.jsonata("{% $count($pending) = 0 %}"), done)
        self._more.when(
            sfn.Condition.jsonata(
                "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
                f"> {self._last_start} %}}"
            ),
            self._give_back,
            assign={"batch": []},
        )
        self._more.otherwise(take)

    def _bisect(self, *, routed: bool) -> None:
        part = "'destination': $destination, " if routed else ""
        split = sfn.Pass.jsonata(
            self._scope,
            "Split batch",
            assign={
                # The halves go to the end, so that those without a poison are done first.
                "pending": "{% ($half := $floor($count($batch) / 2); [$append($pending, ["
                f"{{{part}'messages': [$batch[[0..$half - 1]]]}}, "
                f"{{{part}'messages': [$batch[[$half..$count($batch) - 1]]]}}"
                "])]) %}"
            },
        )
        fail_item = sfn.Pass.jsonata(
            self._scope, "Fail item", assign={"failures": "{% [$append($failures, [$batch.message_id])] %}"}
        )
        self._died.when(sfn.Condition.jsonata("{% $count($batch) > 1 %}"), split).otherwise(fail_item)
        split.next(self._more)
        fail_item.next(self._more)

    def _leg(self, leg: Leg) -> sfn.CustomState:
        """Return the first state of a leg."""
        label = f"{leg.name}: " if leg.name else ""
        preprocessing = leg.preprocess.task(
            self._scope,
            f"{label}Preprocess",
            payload={"messages": "{% $batch %}"},
            assign={
                "items": "{% [$states.result.Payload.items] %}",
                "rejected": "{% [$states.result.Payload.rejected] %}",
                "retry": "{% [$states.result.Payload.retry] %}",
            },
            output={"groups": "{% [$states.result.Payload.groups] %}"},
        )
        any_left = sfn.Choice.jsonata(self._scope, f"{label}Anything to score?")
        postprocessing = leg.postprocess.task(
            self._scope,
            f"{label}Postprocess",
            # The output of the stage before: groups, inference and, if a model ran, its version.
            payload=_postprocess_payload(leg),
            assign={
                "failures": "{% [$append($append($failures, $retry), [$states.result.Payload.retry])] %}",
                **({"escalated": "{% [$states.result.Payload.unsure] %}"} if leg.escalation else {}),
            },
        )
        score = self._hand_over(leg, label) if leg.gpu_workflow else self._infer(leg, label, postprocessing)
        preprocessing.next(any_left)
        any_left.when(
            sfn.Condition.jsonata("{% $count($states.input.groups) = 0 %}"),
            postprocessing,
            outputs={"groups": [], "inference": "none"},
        ).otherwise(score)
        postprocessing.next(self._escalate(leg.escalation, label) if leg.escalation else self._more)
        self._catch(preprocessing)
        self._catch(postprocessing)
        return preprocessing

    def _fused(self, leg: FusedLeg) -> sfn.CustomState:
        routed = {} if leg.route is None else {"route": leg.route, "variant": _VARIANT}
        score = leg.score.task(
            self._scope,
            f"{leg.name}: Score" if leg.name else "Score",
            payload={"messages": "{% $batch %}", **routed},
            assign={"failures": "{% [$append($failures, [$states.result.Payload.retry])] %}"},
        )
        self._catch(score)
        score.next(self._more)
        return score

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
        done = {"failures": "{% [$append($failures, $retry)] %}"}
        start = leg.gpu_workflow.start_task(
            self._scope,
            f"{label}Hand over",
            input={
                "items": "{% $items %}",
                "rejected": "{% $rejected %}",
                "groups": "{% [$states.input.groups] %}",
                **_about(leg),
            },
            assign=done,
        )
        again = sfn.Pass.jsonata(self._scope, f"{label}Handed over before", assign=done)
        # The same messages were delivered twice: the execution of that name has them.
        start.add_catch(again, errors=["StepFunctions.ExecutionAlreadyExistsException", "ExecutionAlreadyExists"])
        start.add_catch(self._give_back, errors=[sfn.Errors.ALL])
        start.next(self._more)
        again.next(self._more)
        return start

    def _escalate(self, escalation: Escalation, label: str) -> sfn.Choice:
        """Make a batch for the better model of what this one was not sure of."""
        unsure = sfn.Choice.jsonata(self._scope, f"{label}Unsure of any?")
        escalate = sfn.Pass.jsonata(
            self._scope,
            f"{label}Escalate",
            assign={
                "pending": "{% [$append($pending, [{"
                f"'destination': {text(escalation.then)}, "
                "'messages': [$map($escalated, function($one) { "
                "$merge([$batch[message_id = $one.message_id][0], {'first': $one.answer}]) })]}])] %}"
            },
        )
        unsure.when(
            sfn.Condition.jsonata("{% $count($escalated) > 0 %}"), escalate, comment="unsure of some"
        ).otherwise(self._more)
        escalate.next(self._more)
        return unsure

    def _catch(self, state: sfn.CustomState) -> None:
        state.add_catch(self._give_back, errors=list(TRANSIENT_ERRORS))
        state.add_catch(self._died, errors=[sfn.Errors.ALL])


def _about(leg: Leg) -> Mapping[str, object]:
    """Return what the rows of a routed pipeline say beside the prediction."""
    if leg.route is None:
        return {}
    return {
        "first": "{% $merge([{}, $batch[$exists(first)].{message_id: first}]) %}",
        "route": leg.route,
        "variant": _VARIANT,
    }


def _postprocess_payload(leg: Leg) -> str:
    members = "'items': $items, 'rejected': $rejected"
    if leg.route is not None:
        members += (
            f", 'route': '{leg.route}', 'variant': $variant = '' ? null : $variant, "
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


def _last_start(timeout: Duration, legs: Sequence[Leg | FusedLeg]) -> int:
    """Return the milliseconds after which a part might not be done within the timeout, and half of that at least."""
    limit = int(timeout.to_milliseconds())
    longest = [_longest(leg) for leg in legs]
    return (
        max(limit - max(one for one in longest if one is not None), limit // 2) if None not in longest else limit // 2
    )


def _longest(leg: Leg | FusedLeg) -> int | None:
    """Return the milliseconds that a part of a batch may take in a leg; None if that is not known yet."""
    if any(stage.timeout.is_unresolved() for stage in leg.express_stages):
        return None
    return sum(int(stage.timeout.to_milliseconds()) for stage in leg.express_stages)
