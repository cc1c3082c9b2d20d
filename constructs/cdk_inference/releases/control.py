"""The table of a release, and the states by which a workflow reads its share and counts its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_choice
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.releases.strategy import CANDIDATE, SHARE, STABLE
from cdk_inference.routing.router import sampled_expression
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.tables import private_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_events as events
    from aws_cdk import aws_kms as kms

    from cdk_inference.releases.abort_rules import AbortRule
    from cdk_inference.releases.comparison import ReleaseComparison
    from cdk_inference.releases.stepper import ReleaseStepper
    from cdk_inference.releases.strategy import Arms
    from cdk_inference.routing.route import Route

RELEASE, RECORD, STATE = "release", "record", "state"
"""The keys of the table, and the record of a release that has its share."""

ReleaseStatus = Literal["RUNNING", "PROMOTED", "ABORTED"]

_RECEIVED = "($exists(receive_count) ? $number(receive_count) : 1)"
_FRESH = f"$fresh := [$batch[{_RECEIVED} = 1].message_id]"
"""Only an object's first delivery counts: the next ones say the same again."""


@check_props
class ReleaseControl(Construct):
    """The state of a release, and what a workflow does with it.

    The table has a few records for each release, by its id: ``state`` with the share, and what was counted. They stay
    when the next release begins.

    Parameters
    ----------
    release_id
        The id of the release: a hash of what is released.
    arms
        The two models.
    steps
        The shares of the candidate, in percent.
    rules
        The reasons to abort it.
    compared
        The percentage of the objects that both models answer.
    encryption_key
        Customer managed key of the table. Default: DynamoDB encrypts with a key that AWS owns.
    removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    table
        The table, for everything this construct does not cover.
    release_id, arms, rules, compared, encryption_key
        As given.
    comparison
        The workflow that lets both models answer the same objects, if there is one.
    stepper
        The state machine that judges the release and moves its share.
    """

    comparison: ReleaseComparison | None = None
    stepper: ReleaseStepper

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        release_id: str,
        arms: Arms,
        steps: Sequence[float],
        rules: Sequence[AbortRule],
        compared: float,
        encryption_key: kms.IKey | None = None,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.release_id = release_id
        self.arms, self.rules, self.compared = arms, rules, compared
        self.encryption_key = encryption_key
        self.table = private_table(
            self,
            "Table",
            key=encryption_key,
            partition_key=RELEASE,
            sort_key=RECORD,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=data_removal_policy(self, removal_policy),
        )
        add_metadata(
            self.table,
            "releases",
            release=release_id,
            steps=list(steps),
            compared=compared,
            stable=_facts(arms, STABLE),
            candidate=_facts(arms, CANDIDATE),
        )

    def grant(self, workflow: sfn.StateMachine) -> None:
        """Let a workflow read the share, add to what was counted, and have answers compared."""
        self.grant_records(workflow, "dynamodb:GetItem", "dynamodb:UpdateItem")
        if self.comparison is not None:
            self.comparison.grant_start_execution(workflow)

    def grant_records(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Let the grantee use the records of this release, and of no other."""
        encryption.grant(self.encryption_key, grantee, encryption.TABLE)
        iam.Grant.add_to_principal(
            grantee=grantee,
            actions=list(actions),
            resource_arns=[self.table.table_arn],
            conditions={"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [self.release_id]}},
        )

    def metric_share(self, **options: Any) -> cloudwatch.Metric:
        """Measure the candidate's share in percent after each decision, the minimum over 5 minutes.

        The metric has no data for a shadow, and none after the end of a release.
        """
        return cloudwatch.Metric(
            **{
                "namespace": "cdk-inference",
                "metric_name": "CandidateShare",
                "dimensions_map": {"pipeline": metrics_name(self)},
                "statistic": cloudwatch.Stats.MINIMUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def on_decision(
        self,
        id: str,
        *,
        target: events.IRuleTarget | None = None,
        statuses: Sequence[ReleaseStatus] = (),
        event_bus: events.IEventBus | None = None,
        event_pattern: events.EventPattern | None = None,
        description: str | None = None,
        rule_name: str | None = None,
    ) -> events.Rule:
        """Send an event to a target for each decision about this release, an operator's too.

        The event has the release, the versions of both models, the status, the step, the shares and the ``history``.
        Its last entry is the decision as JSON: who decided, when, why, and the evidence. An event may come twice, with
        the same ``event_id``. The first rule turns the stream of the table on and creates a pipe.

        Parameters
        ----------
        id
            The id of the rule.
        target
            The target of the events, such as ``aws_events_targets.SqsQueue(queue)``. Default: none yet.
        statuses
            The status of the release after the decision: ``"RUNNING"``, ``"PROMOTED"`` or ``"ABORTED"``. Default: all.
        event_bus
            Where events go. It is the same for all rules of a release. Default: the default bus of the account.
        event_pattern
            More conditions on the event. Default: none.
        description, rule_name
            As those of CDK's rules. Default: none, and CloudFormation makes a name.

        Raises
        ------
        PropError
            A status does not exist, or the events go to another bus.
        """
        from cdk_inference.events.buses import rule_about  # noqa: PLC0415 - only for those who ask
        from cdk_inference.events.patterns import DECISION  # noqa: PLC0415

        for status in statuses:
            check_choice(get_args(ReleaseStatus), statuses=status)
        return rule_about(
            self,
            id,
            detail_type=DECISION,
            detail={"release": [self.release_id], "status": statuses},
            event_bus=self.announce(event_bus),
            target=target,
            event_pattern=event_pattern,
            description=description,
            rule_name=rule_name,
        )

    def announce(self, event_bus: events.IEventBus | None = None) -> events.IEventBus:
        """Put an event on a bus for each decision, and return the bus.

        Parameters
        ----------
        event_bus
            As that of `on_decision`.

        Raises
        ------
        PropError
            The events go to another bus.
        """
        from cdk_inference.releases.decisions import decision_events  # noqa: PLC0415 - only for those who ask

        return decision_events(self, {RELEASE: self.release_id, RECORD: STATE}, event_bus).event_bus

    def read(self, scope: Construct) -> sfn.CustomState:
        """Make the state that reads the share into variables, before a batch is sorted.

        A release that has not begun has no record, and its candidate no share. If the table does not answer, the
        execution fails, and its batch stays in the queue. No object changes its arm because of an outage.
        """
        item = "$states.result.Item"
        state = sfn.CustomState(
            scope,
            "Read release",
            state_json={
                "Type": "Task",
                "Resource": self.integration("getItem"),
                "Arguments": {"TableName": self.table.table_name, "Key": self.key(STATE)},
                "Assign": {
                    SHARE.removeprefix("$"): f"{{% $exists({item}.share.N) ? $number({item}.share.N) : 0 %}}",
                    "compared": f"{{% $exists({item}.compared.N) ? $number({item}.compared.N) : 0 %}}",
                    "counted": f"{{% {item}.status.S = 'RUNNING' ? 'step-' & {item}.step.N : '' %}}",
                    "tallies": [],
                },
                "Output": "{% $states.input %}",
            },
        )
        retry_busy(state, "dynamodb:GetItem")
        return state

    def outcomes(self, route: Route) -> ArmOutcomes | None:
        """Return what counts the outcomes of a batch that leaves the workflow, if it is of a model that writes rows."""
        arm = next((arm for arm, name in self.arms.destinations.items() if self.arms.route(arm) is route), None)
        return None if arm is None or not self.arms.answers else ArmOutcomes(self, arm)

    def tally(self, failures: str, *, written: bool = True) -> dict[str, object]:
        """Return what a state adds to the output of a part: its destination, and what became of its objects.

        Parameters
        ----------
        failures
            Expression for the failures of objects that got no row, with their ``message_id``.
        written
            Whether the state writes rows; otherwise, somebody else counts those.
        """
        rows = [f"$states.result.Payload.{name}" if written else "0" for name in ("succeeded", "failed", "rejected")]
        failed = f"$count([{failures}[message_id in $fresh]])"
        return self._tally(ok=rows[0], errors=" + ".join([*rows[1:], failed]))

    def tally_of_the_dead(self) -> dict[str, object]:
        """Return what is added for an object that killed its invocation."""
        return self._tally(ok="0", errors="$count($fresh)")

    def handed_over(self) -> dict[str, object]:
        """Return the input of a workflow that takes over a batch, and counts it by `outcomes`."""
        return {"counted": f"{{% ({_FRESH}; $count($fresh) > 0 ? $counted : '') %}}"} if self.arms.answers else {}

    def _tally(self, *, ok: str, errors: str) -> dict[str, object]:
        members = {"destination": "$destination"}
        if self.arms.answers:
            members |= {"ok": ok, "errors": errors}
        if self.compared:
            members["ids"] = "$fresh"
        listed = ", ".join(f"'{name}': {value}" for name, value in members.items())
        # A part of a batch has new objects only, or none.
        return {"tally": f"{{% ({_FRESH}; $count($fresh) > 0 ? {{{listed}}} : {{}}) %}}"} if len(members) > 1 else {}

    def finish(self, scope: Construct, then: sfn.IChainable) -> sfn.IChainable:
        """Make the states that count what came out of a batch and compare a sample; they go on, whatever happens."""
        if self.comparison is not None:
            then = self._compare(scope, self.comparison, then)
        return self._count(scope, then) if self.arms.answers else then

    def _compare(self, scope: Construct, comparison: ReleaseComparison, then: sfn.IChainable) -> sfn.IChainable:
        ways = ", ".join(map(string_literal, self.arms.destinations.values()))
        of_arms = f"($ids := $tallies[destination in [{ways}]].ids; $messages[message_id in $ids])"
        sample = sampled_expression(of_arms, "$compared", f"{self.arms.salt}/compared")
        # Within the task, whose errors can be caught: no object is lost to a sample that cannot be computed.
        start = comparison.start_task(scope, "Compare sample", messages=sample)
        start.add_catch(sfn.Pass.jsonata(scope, "Not compared", outputs={}).next(then), errors=[sfn.Errors.ALL])
        start.next(then)
        compares = sfn.Choice.jsonata(scope, "Anything to compare?")
        compares.when(sfn.Condition.jsonata("{% $compared > 0 %}"), start, comment="a share is compared")
        compares.otherwise(then)
        return compares

    def _count(self, scope: Construct, then: sfn.IChainable) -> sfn.IChainable:
        sums = {
            f"{arm}_{kind}": f"$sum([0, $tallies[destination = {string_literal(way)}].{kind}])"
            for arm, way in self.arms.destinations.items()
            for kind in ("ok", "errors")
        }
        anything = sfn.Choice.jsonata(scope, "Anything to count?")
        anything.when(
            sfn.Condition.jsonata("{% $counted != '' and $count($tallies) > 0 %}"),
            self.count_state(scope, "Count arms", sums, then),
            comment="the release runs",
        )
        anything.otherwise(then)
        return anything

    def count_state(self, scope: Construct, id: str, sums: Mapping[str, str], then: sfn.IChainable) -> sfn.CustomState:
        """Make the state that adds to the record of ``$counted``, and goes on, whatever happens.

        Parameters
        ----------
        sums
            JSONata of what is added to each attribute.
        """
        count = sfn.CustomState(
            scope,
            id,
            state_json={
                "Type": "Task",
                "Resource": self.integration("updateItem"),
                "Arguments": {
                    "TableName": self.table.table_name,
                    "Key": self.key("{% $counted %}"),
                    "UpdateExpression": f"ADD {', '.join(f'{name} :{name}' for name in sums)}",
                    "ExpressionAttributeValues": {
                        f":{name}": {"N": f"{{% $string({value}) %}}"} for name, value in sums.items()
                    },
                },
                "Output": {},
            },
        )
        retry_busy(count, "dynamodb:UpdateItem")
        uncounted = sfn.Pass.jsonata(scope, "Not counted", outputs={})
        count.add_catch(uncounted, errors=[sfn.Errors.ALL])
        count.next(then)
        uncounted.next(then)
        return count

    def integration(self, action: str) -> str:
        """Return the resource of a state that calls DynamoDB."""
        return f"arn:{Stack.of(self).partition}:states:::dynamodb:{action}"

    def key(self, record: str) -> dict[str, object]:
        """Return the key of a record, as states name it."""
        return {RELEASE: {"S": self.release_id}, RECORD: {"S": record}}


@dataclass(frozen=True)
class ArmOutcomes:
    """Counts what became of the objects of one model, in a workflow that takes over whole batches.

    Parameters
    ----------
    control
        The release.
    arm
        The model.
    """

    control: ReleaseControl
    arm: str

    def grant(self, workflow: sfn.StateMachine) -> None:
        """Let a workflow add to what was counted."""
        self.control.grant_records(workflow, "dynamodb:UpdateItem")

    def finish(self, scope: Construct, then: sfn.IChainable) -> sfn.IChainable:
        """Make the states that add ``$ok`` and ``$errors`` to the record of ``$counted``, unless that is empty."""
        sums = {f"{self.arm}_{kind}": f"${kind}" for kind in ("ok", "errors")}
        anything = sfn.Choice.jsonata(scope, "Anything to count?")
        anything.when(
            sfn.Condition.jsonata("{% $counted != '' %}"),
            self.control.count_state(scope, "Count arm", sums, then),
            comment="the release runs",
        )
        anything.otherwise(then)
        return anything


def retry_busy(state: sfn.CustomState, call: str) -> None:
    """Try a call of DynamoDB again while it is busy."""
    state.add_retry(
        errors=list(state_errors(call, Kind.BUSY)),
        interval=Duration.seconds(1),
        max_attempts=3,
        backoff_rate=2,
        jitter_strategy=sfn.JitterType.FULL,
    )


def _facts(arms: Arms, arm: str) -> dict[str, str]:
    route = arms.route(arm)
    return {"route": route.name, "model": route.model.manifest.name, "version": route.model.version}
