"""The states of the workflow that all routes share: parts of a batch, what is given back, and dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack, Tokenization
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.jsonata import EMPTY, SAID, string_literal
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.stages.base import CONFIGURATION_ERRORS, TRANSIENT_ERRORS
from cdk_inference.triggers.base import dead_letter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

    from cdk_inference.pipeline.routes import WorkflowRoute
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.routing.router import Router
    from cdk_inference.triggers.base import ITrigger

PARTS = 4
"""How many parts of a batch are scored at the same time, and into how many a batch is split whose invocation died."""

_NULL = "{% null %}"
_REPAIR = {"error": "{% $states.input.Error %}", "cause": f"{{% {SAID} %}}"}
# Lambda refuses by an error that Step Functions knows no name for, and says so in the cause alone.
_DENIED = (
    f"{{% [$contains($states.input.Cause & '', 'AccessDenied') ? {{'error': 'AccessDenied', 'cause': {SAID}}}] %}}"
)
# The message's own text is gone, as the pipe parses it: what was JSON is JSON again.
_BODY = (
    "($message := $messages[message_id = $states.input.message_id]; "
    "$body := $exists($message.body) ? $message.body : $sift($message, function($value, $name) "
    "{ $not($name in ['message_id', 'receive_count']) }); $type($body) = 'string' ? $body : $string($body))"
)


class WorkflowDefinition:
    """The states; no part of a batch is started after ``last_start`` milliseconds.

    Variables: ``messages``, the whole input; ``parts`` still to do, each with the ``ids`` of its messages, whether to
    ``isolate`` them and, with a router, its destination; ``back``, the ids of the messages to try again; ``failed``,
    what failed by itself, with error and cause; ``misconfigured``, errors that somebody must repair; ``answers`` of a
    cascade's first model by id. Within the map over the parts: ``batch``, the messages of the part, ``isolate``,
    ``destination`` and ``variant``; ``items`` and ``rejected``, and in ``prepared`` what else preprocessing said.
    Only ids leave the map, so that its result stays small. JSONata drops the brackets of a list of one, hence the
    ``[…]`` around lists.
    """

    def __init__(
        self,
        scope: Construct,
        *,
        last_start: int,
        trigger: ITrigger | None,
        release: ReleaseControl | None = None,
    ) -> None:
        self.scope = scope
        self._last_start = last_start
        self._trigger = trigger
        self._release = release
        self._routed = False
        self.give_back = sfn.Pass.jsonata(
            scope, "Give back part", outputs={"back": "{% [$batch.message_id] %}", "misconfigured": _DENIED}
        )
        self.repair = sfn.Pass.jsonata(
            scope, "Ask for repair", outputs={"back": "{% [$batch.message_id] %}", "misconfigured": [_REPAIR]}
        )
        self.died = sfn.Choice.jsonata(scope, "More than one item?")

    def build(self, routes: Sequence[WorkflowRoute], router: Router | None, *, at_once: int) -> sfn.IChainable:
        """Return the first state."""
        self._routed = router is not None
        entry = None if router is None else router.plan.entry
        receive = sfn.Pass.jsonata(
            self.scope,
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
            self.scope,
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
                **({} if self._release is None else {"tallies": "{% [$append($tallies, $states.result.tally)] %}"}),
            },
        )
        score.item_processor(self._part(routes, router))
        more = sfn.Choice.jsonata(self.scope, "More to do?")
        more.when(sfn.Condition.jsonata("{% $count($parts) > 0 %}"), score, comment="parts are left")
        more.when(
            sfn.Condition.jsonata("{% $count($misconfigured) > 0 %}"),
            # The execution fails, so that the workflow's alarm says so; all of its messages stay in the queue.
            sfn.Fail.jsonata(
                self.scope,
                "Misconfigured",
                error="Misconfigured",
                cause="{% $misconfigured[0].error & ': ' & $misconfigured[0].cause %}",
            ),
            comment="somebody must repair something",
        )
        report: sfn.IChainable = sfn.Pass.jsonata(
            self.scope,
            "Report failures",
            outputs={"batchItemFailures": "{% [$append($back, $failed.message_id).{'itemIdentifier': $}] %}"},
        )
        if self._release is not None:
            report = self._release.finish(self.scope, report)
        if self._trigger is not None:
            send = self._send_dead_letters(self._trigger)
            more.when(sfn.Condition.jsonata("{% $count($failed) > 0 %}"), send, comment="some failed by themselves")
            send.next(report)
        more.otherwise(report)
        if self._release is not None:
            receive.next(self._release.read(self.scope)).next(score).next(more)
        else:
            receive.next(score).next(more)
        return receive

    def _part(self, routes: Sequence[WorkflowRoute], router: Router | None) -> sfn.IChainable:
        """Return the first of the states that a part goes through; the last one says what became of it."""
        take = sfn.Pass.jsonata(
            self.scope,
            "Take part",
            assign={
                "batch": "{% [$messages[message_id in $states.input.ids].($answer := $lookup($answers, message_id); "
                "$exists($answer) ? $merge([$, {'first': $answer}]) : $)] %}",
                "isolate": "{% $states.input.isolate %}",
                **({"destination": "{% $states.input.destination %}", "variant": _NULL} if self._routed else {}),
            },
        )
        time_left = sfn.Choice.jsonata(self.scope, "Time left?")
        time_left.when(
            sfn.Condition.jsonata(
                "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
                f"> {self._last_start} %}}"
            ),
            self.give_back,
            outputs={"Cause": EMPTY},
        )
        entries = {route.name: route.first_state(self) for route in routes}
        if router is None:
            (entry,) = entries.values()
            time_left.otherwise(entry)
        else:
            time_left.otherwise(router.states(self.scope, entries, on_error=self.catch))
        self._split()
        return take.next(time_left)

    def _split(self) -> None:
        """Split the part whose invocation died; what dies alone is to blame."""
        whole = json_part("[message_id]", routed=self._routed)
        some = json_part("[$batch[[$n * $size..($n + 1) * $size - 1]].message_id]", routed=self._routed)
        split = sfn.Pass.jsonata(
            self.scope,
            "Split part",
            outputs={
                "parts": "{% $isolate "
                f"? [$batch.{whole}] "
                f": ($size := $ceil($count($batch) / {PARTS}); "
                f"[$map([0..$ceil($count($batch) / $size) - 1], function($n) {{ {some} }})]) %}}"
            },
        )
        fail_item = sfn.Pass.jsonata(
            self.scope,
            "Fail item",
            outputs={
                "failed": [
                    {
                        "message_id": "{% $batch[0].message_id %}",
                        "error": "{% $states.input.Error %}",
                        "cause": f"{{% {SAID} %}}",
                    }
                ],
                **({} if self._release is None else self._release.tally_of_the_dead()),
            },
        )
        self.died.when(sfn.Condition.jsonata("{% $count($batch) > 1 %}"), split).otherwise(fail_item)

    def _send_dead_letters(self, trigger: ITrigger) -> sfn.Chain:
        """Put what failed often enough into the dead-letter queue, with the reason, and give back the rest."""
        tries = Tokenization.stringify_number(trigger.max_receive_count)
        tried = f"$number($messages[message_id = $one.message_id].receive_count) >= {tries}"
        choose = sfn.Pass.jsonata(
            self.scope,
            "Choose dead letters",
            assign={
                "dead": f"{{% [$filter($failed, function($one) {{ {tried} }})] %}}",
                "failed": f"{{% [$filter($failed, function($one) {{ {tried} ? false : true }})] %}}",
            },
        )
        send = sfn.CustomState(
            self.scope,
            "Send dead letter",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self.scope).partition}:states:::sqs:sendMessage",
                "Arguments": dead_letter(
                    trigger.dead_letter_queue.queue_url,
                    body=f"{{% {_BODY} %}}",
                    error="{% $states.input.error %}",
                    cause="{% $states.input.cause %}",
                    others=trigger.dead_letter_attributes,
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
        keep = sfn.Pass.jsonata(self.scope, "Keep message", outputs={"back": "{% $kept %}"})
        send.add_catch(keep, errors=[sfn.Errors.ALL], assign={"kept": "{% $states.input.message_id %}"})
        send_all = sfn.Map.jsonata(
            self.scope,
            "Bury",
            items=sfn.ProvideItems.jsonata("{% [$dead] %}"),
            max_concurrency=PARTS,
            outputs={},
            assign={"back": "{% [$append($back, $states.result.back)] %}"},
        )
        send_all.item_processor(send)
        return choose.next(send_all)

    def parts(self, unfinished: str, escalated: Mapping[str, str] | None = None) -> str:
        """Return the expression for the parts that are still to do.

        Parameters
        ----------
        unfinished
            Expression for the ids that were not begun.
        escalated
            Destinations by the expression for the ids that go there.
        """
        again = f"$count({unfinished}) > 0 ? {json_part(unfinished, routed=self._routed, isolate='$isolate')}"
        others = [
            f"$count({ids}) > 0 ? {json_part(ids, routed=True, destination=string_literal(to), isolate='$isolate')}"
            for ids, to in (escalated or {}).items()
        ]
        return f"{{% [{', '.join([again, *others])}] %}}"

    def tally(self, failures: str, *, written: bool = True) -> Mapping[str, object]:
        """Return what the last state of a part adds to its output: how many came out well, for a release.

        Parameters
        ----------
        failures
            Expression for the objects that failed by themselves.
        written
            Whether the state writes rows.
        """
        return {} if self._release is None else self._release.tally(failures, written=written)

    def handed_over(self) -> Mapping[str, object]:
        """Return what a workflow that takes over a batch must know to count it, for a release."""
        return {} if self._release is None else self._release.handed_over()

    def catch(self, state: sfn.CustomState) -> None:
        """Add the catchers that each state with an invocation has."""
        state.add_catch(self.give_back, errors=list(TRANSIENT_ERRORS))
        state.add_catch(self.repair, errors=list(CONFIGURATION_ERRORS))
        state.add_catch(self.died, errors=[sfn.Errors.ALL])


def _received(entry: str | None) -> str:
    """Return the expression for the first parts: what came for the first time, and what came back."""
    times = "($exists(receive_count) ? $number(receive_count) : 1)"
    parts = []
    for condition, isolate in (("= 1", "false"), ("> 1", "true")):
        ids = f"[$states.input[{times} {condition}].message_id]"
        part = json_part(ids, routed=entry is not None, destination=string_literal(entry or ""), isolate=isolate)
        parts.append(f"$count({ids}) > 0 ? {part}")
    return f"[{', '.join(parts)}]"


def json_part(ids: str, *, routed: bool, destination: str = "$destination", isolate: str = "true") -> str:
    """Return the JSONata of a part, whose ids are an expression."""
    sent = f", 'destination': {destination}" if routed else ""
    return f"{{'ids': {ids}, 'isolate': {isolate}{sent}}}"
