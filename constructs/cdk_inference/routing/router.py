"""The router: the states that sort a batch by where its items go."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Unpack

from aws_cdk import Duration, Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference.common.jsonata import one_line, string_literal
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.routing.plan import GIVE_BACK
from cdk_inference.stages.base import FunctionOptions, StageFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cdk_inference.routing.plan import Decider, RoutePlan
    from cdk_inference.triggers.base import ITrigger

_REMEMBER = {
    "lookup_error": "{% $states.errorOutput.Error %}",
    "lookup_cause": "{% $states.errorOutput.Cause & '' %}",
    "looked_at": "{% $states.input %}",
}
# The error of a message that is not an event is the stage's to find, with its reason.
_NO_EVENT = "{'error': 'MalformedMessageError', 'cause': 'the message names no object'}"
_UNDECIDED = "{'error': 'UndecidedError', 'cause': 'no branch has the label that was decided on'}"
_GONE = (
    "{% $contains($lookup_error, /NoSuchKey|NoSuchVersion|MethodNotAllowed/) "
    "or $contains($lookup_cause, /[Ss]tatus( [Cc]ode:)? 404/) %}"
)
_NAMES_AN_OBJECT = one_line("""{% (
  $message := $states.context.Map.Item.Value;
  $event := $type($message.body) = "object" ? $message.body : $message;
  $type($event.detail.bucket.name) = "string" ? $type($event.detail.object.key) = "string" : false
) %}""")
_DETAIL = (
    "$message := $states.context.Map.Item.Value; "
    "$detail := $type($message.body) = 'object' ? $message.body.detail : $message.detail; "
)

_SHARE = """\
$share := function($salt) {
    $number("0x" & $substring($hash($salt & "\\n" & $identity, "SHA-256"), 0, 8)) / 4294967296
  }"""
"""The first 32 bits of a hash, as a share of all."""

_IDENTITY = """\
$event := $type($m.body) = "object" ? $m.body : $m;
  $item := $exists($m.item) ? $m.item : $event.item;
  $payload := $exists($item.member) ? $lookup($m.body, $item.member) : $m.body;
  $object := $exists($item) ? {"key": $item.id, "etag": $item.sequence,
    "size": $exists($item.range) ? $item.range.size : $length($string($payload))}
    : $event.detail.object;
  $key := $object.key;
  $size := $object.size;
  $version := $object.`version-id`;
  $which := $version and $version != "null" ? $version : $object.etag;
  $identity := ($exists($item) ? $item.source : $event.detail.bucket.name) & "\\n" & $key & "\\n" & $which;"""
"""The names by which branches know a message ``$m``."""

_ROUTED = f"""($found := $merge([{{}}, $states.input.{{message_id: $}}]); [$map($batch, function($one) {{ (
  $m := $merge([$one, $lookup($found, $one.message_id)]);
  {_IDENTITY}
  SHARE{{
    "destination": $m.lost or $exists($m.refused) ? {string_literal(GIVE_BACK)} : CHOSEN,
    "message_id": $m.message_id,
    "lost": $m.lost ? true : false,
    "refused": $exists($m.refused) ? $m.refused : null
  }}
) }})])"""


@check_props
class Router(Construct):
    """Sorts the items of a batch by destination, within the states of a workflow.

    Tags and metadata are read from S3 by the workflow itself. There is no function but those in which the user decides.

    Parameters
    ----------
    plan
        The plan of the routing.
    trigger
        Where the objects are.
    **options
        As those of `StageFunction`, for the user's functions.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        plan: RoutePlan,
        trigger: ITrigger,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        self.plan = plan
        self._trigger = trigger
        self.deciders = [_decider_function(self, decider, options) for decider in plan.deciders]

    def grant(self, workflow: sfn.StateMachine) -> None:
        """Let a workflow look up what it chooses by."""
        if self.plan.metadata or self.plan.tags:
            self._trigger.grant_look_up(workflow, metadata=bool(self.plan.metadata), tags=bool(self.plan.tags))
            self._trigger.acknowledge_read(workflow.role)
        for function in self.deciders:
            function.grant_invoke(workflow)

    def states(
        self,
        scope: Construct,
        entries: Mapping[str, sfn.IChainable],
        *,
        on_error: Callable[[sfn.CustomState], None],
    ) -> sfn.IChainable:
        """Return the state that sends a batch to its route, or sorts it if it has no destination yet.

        Parameters
        ----------
        entries
            The first state of each route.
        on_error
            Adds the workflow's catchers to a state.
        """
        known = [one for one in self.plan.destinations.values() if one.name != self.plan.entry]
        if not known:
            return entries[self.plan.destinations[self.plan.entry].planned]
        which = sfn.Choice.jsonata(scope, "Which route?")
        for destination in known:
            which.when(
                sfn.Condition.jsonata(f"{{% $destination = {string_literal(destination.name)} %}}"),
                entries[destination.planned],
                comment=f"to {destination.name}",
                assign={"variant": destination.variant if destination.variant is not None else "{% null %}"},
            )
        if self.plan.entry:
            which.otherwise(entries[self.plan.destinations[self.plan.entry].planned])
            return which
        route = sfn.Pass.jsonata(scope, "Route", outputs=f"{{% {routed_expression(self.plan.expression)} %}}")
        sort = sfn.Pass.jsonata(
            scope,
            "Sort by route",
            outputs={
                "parts": "{% ($routed := [$states.input]; "
                "[$map($distinct($routed[destination != ''].destination), function($one) { {'destination': $one, "
                "'ids': [$routed[destination = $one].message_id], 'isolate': $isolate} })]) %}",
                "back": "{% [$states.input[destination = '' and lost].message_id] %}",
                "failed": "{% [$states.input[destination = '' and $not(lost)]"
                f".$merge([{{'message_id': message_id}}, refused ? refused : {_UNDECIDED}])] %}}",
            },
        )
        states: list[sfn.CustomState | sfn.Map] = []
        if self.plan.tags or self.plan.metadata:
            states.append(self._look_up(scope))
        for function in self.deciders:
            state = self._decide(scope, function)
            on_error(state)
            states.append(state)
        first, *_ = steps = [
            sfn.Pass.jsonata(scope, "Unsorted", outputs="{% [$batch.{'message_id': message_id}] %}"),
            *states,
            route,
            sort,
        ]
        for before, after in pairwise(steps):
            before.next(after)
        which.otherwise(first)
        return which

    def _look_up(self, scope: Construct) -> sfn.Map:
        """Read tags and metadata of each object; an object that is gone has none."""
        each = sfn.Map.jsonata(
            scope,
            "Look up",
            items=sfn.ProvideItems.jsonata("{% [$batch] %}"),
            # Only what is looked up leaves the states: the messages themselves may be as large as a state.
            item_selector={"message_id": "{% $states.context.Map.Item.Value.message_id %}"},
            max_concurrency=8,
        )
        # Which name an error has depends on the call and on the SDK behind it; what it says does not.
        gone = sfn.Choice.jsonata(scope, "Object is gone?")
        none = sfn.Pass.jsonata(scope, "Nothing to look up", outputs="{% $looked_at %}")
        lost = sfn.Pass.jsonata(scope, "Cannot look up now", outputs="{% $merge([$looked_at, {'lost': true}]) %}")
        gone.when(sfn.Condition.jsonata(_GONE), none).otherwise(lost)
        tasks = []
        if self.plan.tags:
            found = (
                f"{{'tags': $merge([{{}}, $states.result.TagSet[Key in {_strings(self.plan.tags)}].{{Key: Value}}])}}"
            )
            tasks.append(_s3_task(scope, "Read tags", "getObjectTagging", found))
        if self.plan.metadata:
            kept = (
                f"$sift($states.result.Metadata, function($value, $name) {{ $name in {_strings(self.plan.metadata)} }})"
            )
            found = f"{{'metadata': $merge([{{}}, {kept}])}}"
            tasks.append(_s3_task(scope, "Read metadata", "headObject", found))
        for task in tasks:
            task.add_catch(gone, errors=[sfn.Errors.ALL], assign=_REMEMBER)
        for before, after in pairwise(tasks):
            before.next(after)
        # Arguments that are missing fail the execution and cannot be caught.
        is_event = sfn.Choice.jsonata(scope, "Is it an event?")
        is_event.when(sfn.Condition.jsonata(_NAMES_AN_OBJECT), tasks[0], comment="names an object")
        is_event.otherwise(
            sfn.Pass.jsonata(scope, "No event", outputs=f"{{% $merge([$states.input, {{'refused': {_NO_EVENT}}}]) %}}")
        )
        each.item_processor(is_event)
        return each

    def _decide(self, scope: Construct, function: StageFunction) -> sfn.CustomState:
        number = function.node.id.removeprefix("Decider")
        return function.task(
            scope,
            f"Decide {number}",
            payload={"messages": "{% $batch %}"},
            output="{% [$map($states.input, function($m) { $merge([$m, {'decisions': $merge([$m.decisions, "
            f"{{'{number}': $lookup($states.result.Payload.decisions, $m.message_id)}}])}}, "
            "$states.result.Payload.failed[message_id = $m.message_id].{'refused': {'error': error, 'cause': cause}}"
            "]) })] %}",
        )


def routed_expression(chosen: str) -> str:
    """Return the JSONata for the destinations of a batch, from what was looked up: ``$batch`` and ``$states.input``.

    Parameters
    ----------
    chosen
        The expression of a `RoutePlan`.
    """
    share = f"{one_line(_SHARE)}; " if "$share(" in chosen else ""
    # Around the names that the user chose, in which nothing may be changed.
    before, after = (one_line(part) for part in _ROUTED.split("CHOSEN"))
    return f"{before.replace('SHARE', share)} {chosen}{after}"


def sampled_expression(messages: str, percent: str, salt: str) -> str:
    """Return the JSONata for those of some messages whose objects are in a sample.

    Parameters
    ----------
    messages, percent
        Expressions for the messages, and for how many percent of them the sample takes.
    salt
        Samples with different salts are independent of each other, and of the shares of a routing.
    """
    share = f"$share({string_literal(salt)}) * 100 < {percent}"
    is_object = '$type($key) = "string"'
    inside = one_line(f"{_IDENTITY} {_SHARE}; {is_object} ? {share} : false")
    return f"[$filter({messages}, function($m) {{ ( {inside} ) }})]"


def _strings(values: Sequence[str]) -> str:
    return f"[{', '.join(string_literal(value) for value in values)}]"


def _s3_task(scope: Construct, id: str, action: str, found: str) -> sfn.CustomState:
    task = sfn.CustomState(
        scope,
        id,
        state_json={
            "Type": "Task",
            "Resource": f"arn:{Stack.of(scope).partition}:states:::aws-sdk:s3:{action}",
            "Arguments": "{% ("
            f"{_DETAIL}"
            "$version := $detail.object.`version-id`; "
            "$merge([{'Bucket': $detail.bucket.name, 'Key': $detail.object.key}, "
            "$version and $version != 'null' ? {'VersionId': $version} : {}])"
            ") %}",
            "Output": f"{{% $merge([$states.input, {found}]) %}}",
        },
    )
    task.add_retry(
        errors=["S3.SdkClientException", "S3.S3Exception"],
        interval=Duration.seconds(1),
        max_attempts=2,
        backoff_rate=2,
        jitter_strategy=sfn.JitterType.FULL,
    )
    return task


def _decider_function(scope: Construct, decider: Decider, options: FunctionOptions) -> StageFunction:
    code = decider.code
    return StageFunction(
        scope,
        f"Decider{decider.number}",
        package=code.package("inference_runtime.handlers.decide.handler"),
        environment=code.environment(),
        description=f"decides for items of {scope.node.path}",
        memory_size=512,
        timeout=Duration.seconds(10),
        **options,
    )
