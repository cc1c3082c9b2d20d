"""The workflow of a retraining: one run at a time, within a budget, once for each set of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.jsonata import EMPTY, SAID, one_line
from cdk_inference.common.metadata import metrics_name
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.events.patterns import RETRAINING, SOURCE
from cdk_inference.retraining.label_intake import RECORD
from cdk_inference.stages.base import StageFunction
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption
from inference_runtime.retraining import layout
from inference_runtime.retraining.layout import COUNTER
from inference_runtime.retraining.reports import REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_events as events
    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import WorkflowLogs
    from cdk_inference.retraining.jobs import RetrainingJob
    from cdk_inference.retraining.label_intake import LabelIntake
    from cdk_inference.stages.base import FunctionOptions

LOCK = "lock"
"""The record that only one execution has at a time."""

_SPARE = Duration.minutes(15)  # for all states but the jobs
_NOW = "$toMillis($states.context.State.EnteredTime)"
_THIS_MONTH = "$substring($states.context.State.EnteredTime, 0, 7)"  # in UTC
_ITEM = "$states.result.Item"
_DEFER = "deferred"
_DEFERRED = f"{_ITEM}.{_DEFER}.S"
_ME = "{% $states.context.Execution.Id %}"
_CONDITION = "DynamoDB.ConditionalCheckFailedException"
_DONE = ("DEPLOYED", "DELIVERED", "REFUSED")
"""Outcomes after which the same labels are not tried again, as they are after a failure or a used budget."""

BUDGET = "budget"
"""The name of the rule that starts a run which the budget of an earlier month held back."""

_VARIABLES = ("by", "status", "reason", "run", "sha256", "model", "version")


@dataclass(frozen=True)
class _Ends:
    """The states that every run ends with.

    Parameters
    ----------
    failed
        The first state after a failure, whose ``$reason`` is known.
    record
        The first state after another outcome, ``$status``.
    release
        The state that releases the lock. It comes next if a run has nothing to record.
    """

    failed: sfn.Pass
    record: sfn.CustomState
    release: sfn.CustomState


@check_props
class RetrainingWorkflow(LoggedStateMachine):
    """A standard state machine that retrains a model; made by `pipeline.add_retraining`.

    Lock → labels → run → budget → training → report → build → report → deployment → record → event → lock.

    A run that exceeds the budget is noted next to the number of labels. After the turn of the month, `BUDGET` starts an
    execution, which goes on if there is such a note of an earlier month.

    Whatever fails after the lock is taken, the last states record the outcome, tell of it, and release the lock. An
    execution that is stopped or dies keeps the lock until it expires, which is after the time that any execution has.

    Parameters
    ----------
    intake
        The labels, and the table of runs.
    training, build, deployment
        The jobs.
    job_timeout
        How long each job may take.
    new_labels
        The number of new labels that starts a run; None if they start none.
    max_runs_per_month
        The budget.
    held_out
        The share of the labelled objects that training does not see.
    salt
        Another salt makes other runs of the same labels.
    event_bus
        Where the events for outcomes go.
    functions, workflows
        Common props of functions and workflows.

    Attributes
    ----------
    selector, reader
        The functions that select labels, and read the reports of jobs.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        intake: LabelIntake,
        training: RetrainingJob,
        build: RetrainingJob,
        deployment: RetrainingJob,
        job_timeout: Duration,
        new_labels: int | None,
        max_runs_per_month: int,
        held_out: float,
        salt: str,
        event_bus: events.IEventBus,
        functions: FunctionOptions,
        workflows: WorkflowLogs,
    ) -> None:
        super().__init__(scope, id)
        self._intake, self._bus = intake, event_bus
        self._new_labels, self._max_runs = new_labels, max_runs_per_month
        self._jobs = {"Train": training, "Build": build, "Deploy": deployment}
        self._job_timeout = job_timeout
        self._timeout = Duration.seconds(3 * int(job_timeout.to_seconds())).plus(_SPARE)
        self._allowed: list[iam.PolicyStatement] = []
        self._patterns: list[str] = []
        selecting = {
            "LABELS_TABLE": intake.labels.table_name,
            "RUNS_TABLE": intake.runs.table_name,
            "HELD_OUT": str(held_out),
            **({"SALT": salt} if salt else {}),
        }
        self.selector = self._function("SelectLabels", "select_labels", selecting, functions, memory_size=2048)
        self.reader = self._function("ReadReport", "read_report", {}, functions, memory_size=256)
        self._create(
            first_state=self._definition(),
            comment=f"retrains a model of {metrics_name(self)}",
            state_machine_type=sfn.StateMachineType.STANDARD,
            timeout=self._timeout,
            **workflows,
        )
        self._grant()
        self._complete("retraining")

    def _function(
        self, id: str, handler: str, variables: Mapping[str, str], functions: FunctionOptions, *, memory_size: int
    ) -> StageFunction:
        options: FunctionOptions = {**functions, "reserved_concurrent_executions": None}
        return StageFunction(
            self,
            id,
            package=ZipPackage(
                handler=f"inference_runtime.handlers.{handler}.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
            ),
            environment={"RETRAINING_BUCKET": self._intake.bucket.bucket_name, **variables},
            description=f"{handler.replace('_', ' ')} of a retraining",
            memory_size=memory_size,
            timeout=Duration.minutes(5),
            **options,
        )

    def _definition(self) -> sfn.IChainable:
        """Return the first state.

        The variables are ``by``, who started the run; ``run``, ``labels`` and ``accepted``, as the selector returns
        them; the ``month`` whose budget it takes; whether the run is ``claimed``, and its labels are ``counted``;
        ``sha256`` of the weights; ``model`` and ``version`` in the registry; and ``status`` with its ``reason``.
        """
        self._ends = self._end()
        # Labels that come now find the lock. They are new in comparison with those that this run has looked at.
        self._nothing_new = self._count_selected("Count known labels", "Known labels not counted")
        self._nothing_new.next(self._ends.release)
        lock, select, claim = self._take_lock(), self._select(), self._claim()
        budget, count = self._take_budget(), self._count_selected("Count selected labels", "Labels not counted")
        train = self._job("Train")
        weights = self._read("Read weights", {}, {"sha256": "{% $states.result.Payload.sha256 %}"})
        build = self._job("Build")
        verdict = self._read(
            "Read verdict",
            {"sha256": "{% $sha256 %}"},
            {name: f"{{% $states.result.Payload.{name} %}}" for name in ("status", "reason", "model", "version")},
        )
        deploy = self._job("Deploy")
        waited = self._jobs["Deploy"].waits
        deployed = self._outcome(
            "Deployed" if waited else "Delivered",
            "DEPLOYED" if waited else "DELIVERED",
            "'the model passed its gate'",
        )
        lock.next(select)
        any_labels = sfn.Choice.jsonata(self, "Any labels?")
        any_labels.when(sfn.Condition.jsonata("{% $labels > 0 %}"), claim, comment="there is something to learn")
        nothing = self._status("No labels", "NO_LABELS", "'there are no labels'")
        any_labels.otherwise(nothing.next(self._nothing_new))
        select.next(any_labels)
        claim.next(budget)
        budget.next(count)
        count.next(train)
        train.next(weights)
        weights.next(build)
        build.next(verdict)
        passed = sfn.Choice.jsonata(self, "Passed the gate?")
        passed.when(sfn.Condition.jsonata(f"{{% $status = '{REFUSED}' %}}"), self._ends.record, comment="it did not")
        passed.otherwise(deploy)
        verdict.next(passed)
        deploy.next(deployed)
        start = sfn.Pass.jsonata(
            self,
            "Start",
            assign={
                **dict.fromkeys(_VARIABLES, EMPTY),
                "by": "{% $exists($states.input.by) ? $string($states.input.by) : 'operator' %}",
                "labels": 0,
                "accepted": 0,
                "month": EMPTY,
                "claimed": False,
                "counted": False,
            },
            outputs={},
        )
        asked = sfn.Choice.jsonata(self, "Because of the budget?")
        asked.when(sfn.Condition.jsonata(f"{{% $by = '{BUDGET}' %}}"), self._if_deferred(lock), comment="a new month")
        asked.otherwise(lock)
        return start.next(asked)

    # The states that lead to the jobs.

    def _if_deferred(self, lock: sfn.IChainable) -> sfn.IChainable:
        """Make the states that go on if the budget of an earlier month has held a run back."""
        read = self._read_counter("Read deferral", {"month": f"{{% $exists({_DEFERRED}) ? {_DEFERRED} : '' %}}"})
        unread = sfn.Fail.jsonata(
            self, "No deferral", error="RetrainingFailed", cause="the deferral cannot be read: DynamoDB does not answer"
        )
        read.add_catch(unread, errors=[sfn.Errors.ALL])
        deferred = sfn.Choice.jsonata(self, "Deferred until now?")
        deferred.when(
            sfn.Condition.jsonata(f"{{% $month != '' and $month < {_THIS_MONTH} %}}"), lock, comment="the month is over"
        )
        deferred.otherwise(sfn.Pass.jsonata(self, "Nothing deferred", outputs={"status": "NOT_DEFERRED"}))
        return read.next(deferred)

    def _take_lock(self) -> sfn.CustomState:
        expires = self._timeout.to_seconds() + 60
        busy = sfn.Pass.jsonata(self, "Busy", outputs={"status": "BUSY"})
        lock = self._update(
            "Take lock",
            LOCK,
            "SET #owner = :owner, #expires_at = :expires_at",
            # It is ours already if the answer to an earlier try was lost.
            "attribute_not_exists(#owner) OR #owner = :owner OR #expires_at < :now",
            {
                ":owner": {"S": _ME},
                ":now": {"N": f"{{% $string({_NOW}) %}}"},
                ":expires_at": {"N": f"{{% $string({_NOW} + {int(expires * 1000)}) %}}"},
            },
            names=("owner", "expires_at"),
        )
        lock.add_catch(busy, errors=[_CONDITION])
        unlocked = sfn.Fail.jsonata(
            self, "No lock", error="RetrainingFailed", cause="the lock cannot be taken: DynamoDB does not answer"
        )
        lock.add_catch(unlocked, errors=[sfn.Errors.ALL])
        return lock

    def _select(self) -> sfn.CustomState:
        select = self.selector.task(
            self,
            "Select labels",
            payload={},
            assign={
                **{name: f"{{% $states.result.Payload.{name} %}}" for name in ("run", "labels", "accepted")},
                "month": f"{{% {_THIS_MONTH} %}}",
            },
            output={},
        )
        self._catch(select, "Labels not selected", "the labels cannot be selected")
        return select

    def _claim(self) -> sfn.CustomState:
        done = {f":done{number}": {"S": status} for number, status in enumerate(_DONE)}
        claim = self._update(
            "Claim run",
            "{% 'run#' & $run %}",
            "SET #status = :status, #by = :by, #labels = :labels, #execution = :execution, #started_at = :now",
            f"attribute_not_exists(#status) OR NOT (#status IN ({', '.join(done)}))",
            {
                ":status": {"S": "RUNNING"},
                ":by": {"S": "{% $by %}"},
                ":labels": {"N": "{% $string($labels) %}"},
                ":execution": {"S": _ME},
                ":now": {"S": "{% $states.context.State.EnteredTime %}"},
                **done,
            },
            names=("status", "by", "labels", "execution", "started_at"),
            assign={"claimed": True},
        )
        known = self._status("Known labels", "KNOWN_LABELS", "'a run has trained with these labels'")
        claim.add_catch(known.next(self._nothing_new), errors=[_CONDITION])
        self._catch(claim, "Run not claimed", "the run cannot be recorded")
        return claim

    def _take_budget(self) -> sfn.CustomState:
        budget = self._update(
            "Take budget",
            "{% 'month#' & $month %}",
            "SET #last = :me ADD #runs :one",
            # A try whose answer was lost may have taken the last run, for us; at worst it counts twice.
            "attribute_not_exists(#runs) OR #runs < :most OR #last = :me",
            {":one": {"N": "1"}, ":most": {"N": str(self._max_runs)}, ":me": {"S": _ME}},
            names=("runs", "last"),
        )
        used = self._outcome("Over budget", "OVER_BUDGET", f"'all of the {self._max_runs} runs of this month are used'")
        # Not the month of this state: the budget that is used is that of the state before.
        defer = self._update(
            "Defer to next month",
            COUNTER,
            f"SET #{_DEFER} = :month",
            None,
            {":month": {"S": "{% $month %}"}},
            names=(_DEFER,),
        )
        self._catch(defer, "Not deferred", "the run cannot be deferred to the next month")
        budget.add_catch(defer.next(used), errors=[_CONDITION])
        self._catch(budget, "Budget not known", "the budget cannot be read")
        return budget

    def _count_selected(self, id: str, failed: str) -> sfn.CustomState:
        """Make the state that counts all labels so far as selected, so that nothing is held back any more."""
        count = self._update(
            id,
            COUNTER,
            f"SET #selected = :selected REMOVE #{_DEFER}",
            None,
            {":selected": {"N": "{% $string($accepted) %}"}},
            names=("selected", _DEFER),
            assign={"counted": True},
        )
        self._catch(count, failed, "the labels cannot be counted")
        return count

    def _job(self, id: str) -> sfn.CustomState:
        variables = {
            "RETRAINING_RUN": "{% $run %}",
            "RETRAINING_EXECUTION": "{% $states.context.Execution.Name %}",
            "RETRAINING_BUCKET": self._intake.bucket.bucket_name,
        }
        if id == "Deploy":
            variables |= {"MODEL_NAME": "{% $model %}", "MODEL_VERSION": "{% $version %}"}
        bound = self._jobs[id].bind(self, id, variables=variables, timeout=self._job_timeout)
        self._allowed += bound.allowed
        self._patterns += bound.jobs
        doing = {"Train": "training", "Build": "build", "Deploy": "deployment"}[id]
        self._catch(bound.state, f"{doing.capitalize()} failed", f"the {doing} failed, see its log")
        return bound.state

    def _read(self, id: str, given: Mapping[str, object], assign: Mapping[str, object]) -> sfn.CustomState:
        payload = {"run": "{% $run %}", "execution": "{% $states.context.Execution.Name %}", **given}
        read = self.reader.task(self, id, payload=payload, assign=assign, output={})
        self._catch(read, f"{id} failed", "the report of the job cannot be used")
        return read

    # The states that end a run.

    def _end(self) -> _Ends:
        """Make the states that record an outcome, tell of it, and release the lock."""
        release = self._release()
        announce = self._announce(release)
        record = self._update(
            "Record outcome",
            "{% 'run#' & $run %}",
            "SET #status = :status, #reason = :reason, #sha256 = :sha256, #model = :model, #version = :version, "
            "#ended_at = :now",
            None,
            {
                **{f":{name}": {"S": f"{{% ${name} %}}"} for name in _VARIABLES if name not in ("by", "run")},
                ":now": {"S": "{% $states.context.State.EnteredTime %}"},
            },
            names=("status", "reason", "sha256", "model", "version", "ended_at"),
        )
        record.next(announce)
        # The event is what people see: it comes, although the table does not answer.
        record.add_catch(announce, errors=[sfn.Errors.ALL])
        known = sfn.Choice.jsonata(self, "Is there a run?")
        known.when(sfn.Condition.jsonata("{% $claimed %}"), record, comment="it is in the table")
        known.otherwise(announce)
        failed = sfn.Pass.jsonata(self, "Failed", assign={"status": "FAILED"}, outputs={})
        failed.next(known)
        return _Ends(failed, record, release)

    def _announce(self, release: sfn.IChainable) -> sfn.CustomState:
        """Make the state that puts an event on the bus, and the one for which nobody takes it."""
        detail = {name: f"{{% ${name} %}}" for name in (*_VARIABLES, "labels")}
        announce = sfn.CustomState(
            self,
            "Announce",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::events:putEvents",
                "Arguments": {
                    "Entries": [
                        {
                            "Source": SOURCE,
                            "DetailType": RETRAINING,
                            "EventBusName": self._bus.event_bus_arn,
                            "Detail": {
                                "event_id": "{% $states.context.Execution.Id & ' ' & $status %}",
                                "pipeline": metrics_name(self),
                                **detail,
                            },
                        }
                    ]
                },
                "Output": {},
            },
        )
        announce.add_retry(
            errors=[sfn.Errors.ALL],
            interval=Duration.seconds(2),
            max_attempts=6,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        untold = sfn.Pass.jsonata(
            self,
            "Not announced",
            assign={
                "reason": "{% 'nobody was told of the outcome ' & $status & ' (' & $reason & ')' %}",
                "status": "FAILED",
            },
            outputs={},
        )
        announce.add_catch(untold.next(release), errors=[sfn.Errors.ALL])
        announce.next(release)
        return announce

    def _release(self) -> sfn.CustomState:
        """Make the states that release the lock, if it is still ours, and end the execution."""
        release = self._update(
            "Release lock",
            LOCK,
            "REMOVE #owner, #expires_at",
            "#owner = :owner",
            {":owner": {"S": _ME}},
            names=("owner", "expires_at"),
        )
        ended = sfn.Choice.jsonata(self, "How did it end?")
        ended.when(
            sfn.Condition.jsonata("{% $status = 'FAILED' %}"),
            sfn.Fail.jsonata(self, "Run failed", error="RetrainingFailed", cause="{% $reason %}"),
            comment="somebody has to look",
        )
        over = sfn.Pass.jsonata(
            self, "Over", outputs={name: f"{{% ${name} %}}" for name in ("status", "reason", "run", "model", "version")}
        )
        ended.otherwise(over)
        release.next(ended if self._new_labels is None else self._look_again(ended))
        release.add_catch(ended, errors=[sfn.Errors.ALL])  # it expires
        return release

    def _look_again(self, ended: sfn.Choice) -> sfn.IChainable:
        """Make the states that start a run for labels that came during this one: their start found the lock.

        A run that failed may have lasted for hours too. One that ended before its labels were counted as selected would
        be started again and again.
        """
        number = {
            name: f"($exists({_ITEM}.{name}.N) ? $number({_ITEM}.{name}.N) : 0)" for name in ("accepted", "selected")
        }
        read = self._read_counter("Read new labels", {"new": f"{{% {number['accepted']} - {number['selected']} %}}"})
        read.add_catch(ended, errors=[sfn.Errors.ALL])
        again = sfn.CustomState(
            self,
            "Start again",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::states:startExecution",
                "Arguments": {"StateMachineArn": "{% $states.context.StateMachine.Id %}", "Input": {"by": "labels"}},
                "Output": {},
            },
        )
        again.add_catch(ended, errors=[sfn.Errors.ALL])  # the next labels start it
        again.next(ended)
        enough = sfn.Choice.jsonata(self, "Enough new labels?")
        enough.when(sfn.Condition.jsonata(f"{{% $new >= {self._new_labels} %}}"), again, comment="they came meanwhile")
        enough.otherwise(ended)
        read.next(enough)
        counted = sfn.Choice.jsonata(self, "Were labels selected?")
        counted.when(sfn.Condition.jsonata("{% $counted %}"), read, comment="others may have come")
        counted.otherwise(ended)
        return counted

    # The parts of these states.

    def _status(self, id: str, status: str, reason: str) -> sfn.Pass:
        return sfn.Pass.jsonata(self, id, assign={"status": status, "reason": f"{{% {reason} %}}"}, outputs={})

    def _outcome(self, id: str, status: str, reason: str) -> sfn.Pass:
        state = self._status(id, status, reason)
        state.next(self._ends.record)
        return state

    def _catch(self, state: sfn.CustomState, id: str, what: str) -> None:
        """Let an error of a state be the reason why the run failed."""
        reason = one_line(f"{{% '{what}: ' & $states.input.Error & ': ' & {SAID} %}}")
        noted = sfn.Pass.jsonata(self, id, assign={"reason": reason}, outputs={})
        noted.next(self._ends.failed)
        state.add_catch(noted, errors=[sfn.Errors.ALL])

    def _read_counter(self, id: str, assign: Mapping[str, object]) -> sfn.CustomState:
        read = sfn.CustomState(
            self,
            id,
            state_json={
                "Type": "Task",
                "Resource": self._dynamodb("getItem"),
                "Arguments": {
                    "TableName": self._intake.runs.table_name,
                    "Key": {RECORD: {"S": COUNTER}},
                    "ConsistentRead": True,
                },
                "Assign": dict(assign),
                "Output": {},
            },
        )
        _retry_busy(read, "dynamodb:GetItem")
        return read

    def _update(
        self,
        id: str,
        record: str,
        expression: str,
        condition: str | None,
        values: Mapping[str, object],
        *,
        names: Sequence[str],
        assign: Mapping[str, object] | None = None,
    ) -> sfn.CustomState:
        state = sfn.CustomState(
            self,
            id,
            state_json={
                "Type": "Task",
                "Resource": self._dynamodb("updateItem"),
                "Arguments": {
                    "TableName": self._intake.runs.table_name,
                    "Key": {RECORD: {"S": record}},
                    "UpdateExpression": expression,
                    **({} if condition is None else {"ConditionExpression": condition}),
                    "ExpressionAttributeNames": {f"#{name}": name for name in names},
                    "ExpressionAttributeValues": dict(values),
                },
                **({} if assign is None else {"Assign": dict(assign)}),
                "Output": {},
            },
        )
        _retry_busy(state, "dynamodb:UpdateItem")
        return state

    def _dynamodb(self, action: str) -> str:
        return f"arn:{Stack.of(self).partition}:states:::dynamodb:{action}"

    def _grant(self) -> None:
        """Let machine, functions and jobs do what they do, and nothing else."""
        intake, machine, key = self._intake, self.state_machine, self._key
        self.selector.grant_invoke(machine)
        self.reader.grant_invoke(machine)
        encryption.grant(key, machine, encryption.TABLE)
        intake.runs.grant(machine, "dynamodb:GetItem", "dynamodb:UpdateItem")
        iam.Grant.add_to_principal(
            grantee=machine,
            actions=["events:PutEvents"],
            resource_arns=[self._bus.event_bus_arn],
            conditions={
                "ForAllValues:StringEquals": {"events:source": SOURCE, "events:detail-type": RETRAINING},
                "Null": {"events:source": "false", "events:detail-type": "false"},
            },
        )
        for statement in self._allowed:
            machine.add_to_role_policy(statement)
        if self._patterns:
            acknowledgments.by_pattern(
                machine.role.node.find_child("DefaultPolicy"), "jobs-by-pattern", *self._patterns
            )
        encryption.grant(key, self.selector, encryption.TABLE)
        intake.labels.grant(self.selector, "dynamodb:Scan")
        intake.grant_counter(self.selector, "dynamodb:GetItem")
        self._grant_folders(self.selector, put=[layout.LABEL_SETS])
        encryption.grant(key, self.reader, encryption.DECRYPT)
        self._grant_folders(self.reader, get=[layout.WEIGHTS, layout.BUILDS])
        iam.Grant.add_to_principal(
            grantee=self.reader, actions=["s3:ListBucket"], resource_arns=[intake.bucket.bucket_arn]
        )
        if self._new_labels is not None:
            # A separate policy, as the role must be there before the state machine.
            again = iam.Policy(self, "StartAgain", roles=[machine.role])
            again.add_statements(
                iam.PolicyStatement(actions=["states:StartExecution"], resources=[machine.state_machine_arn])
            )
            acknowledgments.explain(again, "inline-policy")

    def _grant_folders(self, function: StageFunction, *, get: Sequence[str] = (), put: Sequence[str] = ()) -> None:
        for action, folders in (("s3:GetObject", get), ("s3:PutObject", put)):
            if folders:
                arns = [self._intake.bucket.arn_for_objects(f"{folder}*") for folder in folders]
                iam.Grant.add_to_principal(grantee=function, actions=[action], resource_arns=arns)
        acknowledgments.objects_under(function.role, self._intake.bucket, *(f"{folder}*" for folder in (*get, *put)))


def _retry_busy(state: sfn.CustomState, call: str) -> None:
    state.add_retry(
        errors=list(state_errors(call, Kind.BUSY)),
        interval=Duration.seconds(1),
        max_attempts=4,
        backoff_rate=2,
        jitter_strategy=sfn.JitterType.FULL,
    )
