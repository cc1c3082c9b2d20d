"""The state machine that moves the share of a release, and the function that judges it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.jsonata import EMPTY, one_line
from cdk_inference.common.principals import events_principal
from cdk_inference.common.props.descriptions import ROLE, RULE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.releases.control import STATE, retry_busy
from cdk_inference.stages.base import StageFunction
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_cloudwatch as cloudwatch
    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import WorkflowLogs
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.stages.base import FunctionOptions

_WINDOWS = 500
"""How often an execution judges before it hands over to another: its history has at most 25,000 events."""

_ENTERED = "$toMillis($states.context.State.EnteredTime)"
_NAMES = ("status", "step", "share", "compared", "changed_at", "history")
_ENTRY = """{{% $string({{
  "at": {entered}, "by": "{by}", "status": "{status}", "step": $verdict.step, "share": {share},
  "reason": $verdict.reason, "evidence": $exists($verdict.evidence) ? $verdict.evidence : {{}}
}}) %}}"""


@check_props
class ReleaseStepper(LoggedStateMachine):
    """A standard state machine that begins a release, judges it in each window, and moves its share.

    It begins when CloudFormation has created or updated the stack. From then on it waits for a window, and lets a
    function judge. All that it writes is in its definition: it can take the share away, and give the shares that were
    deployed, one after the other. The function can write nothing. Every write has the condition that the release is as
    it was judged. If two executions decide at the same time, one writes and the other judges again.

    An execution that aborts a release fails with ``ReleaseAborted`` and the reason.

    Parameters
    ----------
    control
        The release.
    steps
        The shares of the candidate, in percent; none for a shadow.
    compared
        The percentage of the objects that both models answer.
    bake_time
        How long each step lasts at least.
    window
        How often the release is judged.
    rules
        The rules that abort it, as the function takes them.
    alarms
        The alarms that abort it.
    confidence, min_samples
        As those of `Release.canary`.
    functions, workflows
        Common props of functions and workflows.

    Attributes
    ----------
    judge
        The function that judges.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        control: ReleaseControl,
        steps: Sequence[float],
        compared: float,
        bake_time: Duration,
        window: Duration,
        rules: Sequence[Mapping[str, object]],
        alarms: Sequence[cloudwatch.IAlarm],
        confidence: float,
        min_samples: int,
        functions: FunctionOptions,
        workflows: WorkflowLogs,
    ) -> None:
        super().__init__(scope, id)
        self._control = control
        self._steps = list(steps)
        self._compared = compared
        plan = {
            "steps": self._steps,
            "bake_ms": int(bake_time.to_milliseconds()),
            "rules": list(rules),
            "confidence": confidence,
            "min_samples": min_samples,
        }
        self.judge = self._judge(plan, functions)
        self._create(
            first_state=self._definition(window, alarms),
            comment=f"moves the share of {control.arms.candidate.name}",
            state_machine_type=sfn.StateMachineType.STANDARD,
            timeout=Duration.days(365),
            **workflows,
        )
        self.judge.grant_invoke(self.state_machine)
        if alarms:
            iam.Grant.add_to_principal(
                grantee=self.state_machine,
                actions=["cloudwatch:DescribeAlarms"],
                resource_arns=[alarm.alarm_arn for alarm in alarms],
            )
        control.grant_records(self.state_machine, "dynamodb:UpdateItem")
        self._let_start_itself()
        self.rule = self._start_after_deployments()
        self._complete("release-state-machine")

    def _judge(self, plan: Mapping[str, object], functions: FunctionOptions) -> StageFunction:
        judge = StageFunction(
            self,
            "Judge",
            package=ZipPackage(handler="inference_runtime.handlers.judge_release.handler"),
            description=f"judges the release of {self._control.arms.candidate.name}",
            environment={
                "RELEASE": self._control.release_id,
                "RELEASES_TABLE": self._control.table.table_name,
                "RELEASE_PLAN": Stack.of(self).to_json_string(plan),
            },
            memory_size=512,
            timeout=Duration.seconds(30),
            **functions,
        )
        self._control.grant_records(judge, "dynamodb:Query")
        return judge

    def _definition(self, window: Duration, alarms: Sequence[cloudwatch.IAlarm]) -> sfn.IChainable:
        """Return the first state.

        Variables: ``windows`` that are left, the last ``verdict``, and the ``alarms`` that exist, with their states.
        """
        begin = self._write(
            "Begin",
            by="deployment",
            status="RUNNING",
            step="0",
            share=f"{self._steps[0] if self._steps else 0:g}",
            compared=f"{self._compared:g}",
            condition="attribute_not_exists(#status)",
            begins=True,
        )
        wait = sfn.Wait.jsonata(self, "Wait", time=sfn.WaitTime.duration(window))
        judge = self.judge.task(
            self,
            "Judge release",
            payload={"release": self._control.release_id, "now": f"{{% {_ENTERED} %}}", "alarms": "{% [$alarms] %}"},
            assign={"verdict": "{% $states.result.Payload %}", "windows": "{% $windows - 1 %}"},
            output={},
        )
        decide = sfn.Choice.jsonata(self, "Decide")
        begin.next(wait)
        wait.next(self._read_alarms(alarms, judge) if alarms else judge)
        judge.next(decide)
        # A function that fails says nothing about the candidate: it is asked again in the next window.
        judge.add_catch(wait, errors=[sfn.Errors.ALL])

        abort = self._write("Abort", status="ABORTED", share="0", compared="0")
        abort.next(
            sfn.Fail.jsonata(
                self, "Aborted", error="ReleaseAborted", cause="{% $substring($verdict.reason, 0, 1000) %}"
            )
        )
        said = "$verdict.decision = "
        decide.when(sfn.Condition.jsonata(f"{{% {said}'abort' %}}"), abort, comment="the candidate is worse")
        writes = [begin, abort]
        if self._steps:
            last = len(self._steps) - 1
            promote = self._write("Promote", status="PROMOTED", share="100", compared="0")
            promote.next(sfn.Succeed.jsonata(self, "Promoted"))
            advance = self._write(
                "Advance",
                step="{% $string($verdict.step + 1) %}",
                share=f"{{% $string({json.dumps(self._steps)}[$verdict.step + 1]) %}}",
            )
            advance.next(wait)
            decide.when(
                sfn.Condition.jsonata(f"{{% {said}'advance' and $verdict.step >= {last} %}}"),
                promote,
                comment="the last step has baked",
            )
            decide.when(sfn.Condition.jsonata(f"{{% {said}'advance' %}}"), advance, comment="the step has baked")
            writes += [promote, advance]
        decide.when(
            sfn.Condition.jsonata(f"{{% {said}'end' %}}"), sfn.Succeed.jsonata(self, "Over"), comment="it is over"
        )
        decide.when(sfn.Condition.jsonata("{% $windows <= 0 %}"), self._hand_over(wait), comment="after many windows")
        decide.otherwise(wait)
        for write in writes:
            retry_busy(write, "dynamodb:UpdateItem")
            # Somebody else decided first, or DynamoDB does not answer: the next window shows.
            write.add_catch(wait, errors=[sfn.Errors.ALL])
        first = sfn.Pass.jsonata(
            self,
            "Start",
            assign={
                "windows": _WINDOWS,
                "alarms": [],
                "verdict": {"step": 0, "reason": "the stack is deployed", "decision": EMPTY},
            },
            outputs={},
        )
        return first.next(begin)

    def _write(
        self,
        id: str,
        *,
        by: str = "judge",
        status: str = "RUNNING",
        step: str | None = None,
        share: str,
        compared: str | None = None,
        condition: str = "#status = :running AND #step = :seen",
        begins: bool = False,
    ) -> sfn.CustomState:
        """Make a state that writes the state of the release, if it still is as it was judged."""
        value = share.removeprefix("{% $string(").removesuffix(") %}")
        entry = one_line(_ENTRY.format(entered=_ENTERED, by=by, status=status, share=value))
        new = {"status": {"S": status}, "share": {"N": share}, "changed_at": {"N": f"{{% $string({_ENTERED}) %}}"}}
        if step is not None:
            new["step"] = {"N": step}
        if compared is not None:
            new["compared"] = {"N": compared}
        names = [name for name in _NAMES if name in new or name == "history"]
        sets = [f"#{name} = :{name}" for name in names if name != "history"]
        sets.append("#history = list_append(if_not_exists(#history, :empty), :history)")
        seen = {} if begins else {":running": {"S": "RUNNING"}, ":seen": {"N": "{% $string($verdict.step) %}"}}
        return sfn.CustomState(
            self,
            id,
            state_json={
                "Type": "Task",
                "Resource": self._control.integration("updateItem"),
                "Arguments": {
                    "TableName": self._control.table.table_name,
                    "Key": self._control.key(STATE),
                    "UpdateExpression": f"SET {', '.join(sets)}",
                    "ConditionExpression": condition,
                    "ExpressionAttributeNames": {
                        f"#{name}": name for name in (*names, *(() if begins or "step" in names else ("step",)))
                    },
                    "ExpressionAttributeValues": {
                        **{f":{name}": value for name, value in new.items()},
                        ":empty": {"L": []},
                        ":history": {"L": [{"S": entry}]},
                        **seen,
                    },
                },
                "Output": {},
            },
        )

    def _read_alarms(self, alarms: Sequence[cloudwatch.IAlarm], then: sfn.IChainable) -> sfn.CustomState:
        """Make the state that reads the alarms; those that do not exist are left out of the answer."""
        found = "$states.result.**[AlarmName and StateValue].{'name': AlarmName, 'state': StateValue}"
        state = sfn.CustomState(
            self,
            "Read alarms",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::aws-sdk:cloudwatch:describeAlarms",
                # Composite alarms would need the right to see all alarms.
                "Arguments": {"AlarmNames": [alarm.alarm_name for alarm in alarms], "AlarmTypes": ["MetricAlarm"]},
                "Assign": {"alarms": f"{{% [{found}] %}}"},
                "Output": {},
            },
        )
        state.add_retry(
            errors=["CloudWatch.CloudWatchException", "CloudWatch.SdkClientException"],
            interval=Duration.seconds(1),
            max_attempts=3,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        unknown = sfn.Pass.jsonata(self, "Alarms unknown", assign={"alarms": []}, outputs={})
        state.add_catch(unknown, errors=[sfn.Errors.ALL])
        state.next(then)
        unknown.next(then)
        return state

    def _hand_over(self, wait: sfn.IChainable) -> sfn.CustomState:
        """Make the state that starts an execution with a new history, in the place of this one."""
        state = sfn.CustomState(
            self,
            "Hand over",
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::states:startExecution",
                "Arguments": {"StateMachineArn": "{% $states.context.StateMachine.Id %}", "Input": {}},
                "Output": {},
            },
        )
        state.add_retry(
            errors=list(state_errors("states:StartExecution", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=3,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        state.add_catch(wait, errors=[sfn.Errors.ALL])
        state.next(sfn.Succeed.jsonata(self, "Handed over"))
        return state

    def _let_start_itself(self) -> None:
        # A separate policy, as the role must be there before the state machine.
        policy = iam.Policy(self, "HandOver", roles=[self.state_machine.role])
        policy.add_statements(
            iam.PolicyStatement(actions=["states:StartExecution"], resources=[self.state_machine.state_machine_arn])
        )
        acknowledgments.explain(policy, "inline-policy")

    def _start_after_deployments(self) -> events.Rule:
        """Start the machine when the stack is complete: not sooner, since the workflow must know the release."""
        stack = Stack.of(self)
        role = iam.Role(
            self,
            "EventsRole",
            assumed_by=events_principal(stack),
            description=described(f"starts {self.node.path} after deployments", ROLE),
        )
        encryption.grant_executions(self.state_machine, self._key, role)
        rule = events.Rule(
            self,
            "Deployed",
            description=described(f"starts {self.node.path} after deployments", RULE),
            event_pattern=events.EventPattern(
                source=["aws.cloudformation"],
                detail_type=["CloudFormation Stack Status Change"],
                detail={
                    "stack-id": [stack.stack_id],
                    "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]},
                },
            ),
            targets=[
                targets.SfnStateMachine(
                    self.state_machine, role=role, input=events.RuleTargetInput.from_object({"by": "deployment"})
                )
            ],
        )
        acknowledgments.explain(rule, "rule-of-last-resort")
        acknowledgments.policy_of(role)
        return rule
