"""The workflow that lets both models answer the same objects, and compares what they say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.releases.strategy import CANDIDATE, STABLE
from cdk_inference.stages.base import CONFIGURATION_ERRORS, TRANSIENT_ERRORS, StageFunction
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption
from cdk_inference.storage.work_bucket import TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import aws_iam as iam
    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import WorkflowLogs
    from cdk_inference.pipeline.staged import SeparateStages
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.stages.base import FunctionOptions

_ENTERED = "$toMillis($states.context.State.EnteredTime)"
_WARM = {"cdk-inference": "warm"}


@check_props
class ReleaseComparison(LoggedStateMachine):
    """An express state machine that gives messages to both models, one after the other.

    Input: ``{"messages": [...]}``, as a workflow has them. It writes no rows, and nobody waits for it: what goes wrong
    here costs no object its result. The environments of both models are warmed first, so that the times compare.

    A batch that the stable model does not survive says nothing, and neither does throttling. A batch that only the
    candidate does not survive counts against it.

    Parameters
    ----------
    control
        The release.
    stable, candidate
        The stages of the two models.
    comparison
        How the answers are compared, as the function takes it.
    functions, workflows
        Common props of functions and workflows.

    Attributes
    ----------
    compare
        The function that compares.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        control: ReleaseControl,
        stable: SeparateStages,
        candidate: SeparateStages,
        comparison: Mapping[str, object],
        functions: FunctionOptions,
        workflows: WorkflowLogs,
    ) -> None:
        super().__init__(scope, id)
        self.compare = self._compare(control, candidate, comparison, functions)
        arms = {STABLE: stable, CANDIDATE: candidate}
        self._create(
            first_state=self._definition(arms),
            comment=f"compares {control.arms.candidate.name} with {control.arms.stable.name}",
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=Duration.minutes(5),
            **workflows,
        )
        for stages in arms.values():
            stages.preprocess.grant_invoke(self.state_machine)
            stages.inference.grant_invoke(self.state_machine)
        self.compare.grant_invoke(self.state_machine)
        self._complete("comparison-state-machine")

    def grant_start_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee hand over messages to compare."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
        return self.state_machine.grant_start_execution(grantee)

    def _compare(
        self,
        control: ReleaseControl,
        stages: SeparateStages,
        comparison: Mapping[str, object],
        functions: FunctionOptions,
    ) -> StageFunction:
        compare = StageFunction(
            self,
            "Compare",
            package=ZipPackage(
                handler="inference_runtime.handlers.compare_models.handler", runtime_requirements="preprocess-base"
            ),
            description=f"compares the answers of {control.arms.candidate.name}",
            environment={
                "RELEASE": control.release_id,
                "RELEASES_TABLE": control.table.table_name,
                "COMPARISON": json.dumps(comparison),
                "WORK_BUCKET": stages.work.bucket.bucket_name,
            },
            memory_size=1024,
            timeout=Duration.seconds(60),
            **functions,
        )
        control.grant_records(compare, "dynamodb:UpdateItem")
        stages.work.grant_read(compare)
        acknowledgments.objects_under(compare.role, stages.work.bucket, TENSORS)
        return compare

    def start_task(self, scope: Construct, id: str, *, messages: str) -> sfn.CustomState:
        """Make the state that hands messages over, and goes on at once.

        Parameters
        ----------
        messages
            The JSONata of a list.
        """
        state = sfn.CustomState(
            scope,
            id,
            state_json={
                "Type": "Task",
                "Resource": f"arn:{Stack.of(self).partition}:states:::states:startExecution",
                "Arguments": {
                    "StateMachineArn": self.state_machine.state_machine_arn,
                    "Input": {"messages": f"{{% {messages} %}}"},
                },
                "Output": {},
            },
        )
        state.add_retry(
            errors=list(state_errors("states:StartExecution", Kind.BUSY)),
            interval=Duration.seconds(1),
            max_attempts=2,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return state

    def _definition(self, arms: Mapping[str, SeparateStages]) -> sfn.IChainable:
        """Return the first state.

        Variables: ``messages``; for each arm what preprocessing returned, ``stable`` and ``candidate``, what the model
        returned, ``stable_groups`` and ``candidate_groups``, and the moment in which it ended, ``stable_end`` and
        ``candidate_end``, in milliseconds; ``began``, when the stable model did.
        """
        nothing = sfn.Succeed.jsonata(self, "Nothing to compare")
        compare = self.compare.task(
            self,
            "Compare answers",
            payload={
                "stable": "{% $merge([$stable, {'groups': [$stable_groups]}]) %}",
                "candidate": "{% $survived ? $merge([$candidate, {'groups': [$candidate_groups]}]) : null %}",
                "stable_ms": "{% $stable_end - $began %}",
                "candidate_ms": "{% $candidate_end - $stable_end %}",
            },
            output={},
        )
        lost = sfn.Pass.jsonata(self, "Candidate lost", assign={"survived": False, "candidate_end": 0})
        lost.next(compare)
        compare.add_catch(nothing, errors=[sfn.Errors.ALL])
        end: sfn.IChainable = compare
        for arm in (CANDIDATE, STABLE):
            end = self._answer(arm, arms[arm], then=end, failed=lost if arm == CANDIDATE else nothing, nothing=nothing)
        receive = sfn.Pass.jsonata(
            self, "Receive", assign={"messages": "{% [$states.input.messages] %}", "survived": True}, outputs={}
        )
        anything = sfn.Choice.jsonata(self, "Anything in the sample?")
        warm = self._warm(arms)
        anything.when(sfn.Condition.jsonata("{% $count($messages) > 0 %}"), warm, comment="both models answer it")
        anything.otherwise(nothing)
        warm.next(end)
        return receive.next(anything)

    def _warm(self, arms: Mapping[str, SeparateStages]) -> sfn.Parallel:
        warm = sfn.Parallel.jsonata(self, "Warm", outputs={})
        for arm, stages in arms.items():
            for name, stage in (("preprocessing", stages.preprocess), ("inference", stages.inference)):
                state = stage.task(self, f"Warm {arm} {name}", payload=_WARM, output={})
                state.add_catch(sfn.Pass.jsonata(self, f"Cold {arm} {name}", outputs={}), errors=[sfn.Errors.ALL])
                warm.branch(state)
        return warm

    def _answer(
        self,
        arm: str,
        stages: SeparateStages,
        *,
        then: sfn.IChainable,
        failed: sfn.Pass | sfn.Succeed,
        nothing: sfn.Succeed,
    ) -> sfn.CustomState:
        """Make the states in which a model answers, and return the first."""
        began = {"began": f"{{% {_ENTERED} %}}"} if arm == STABLE else {}
        preprocess = stages.preprocess.task(
            self,
            f"{arm.capitalize()}: Preprocess",
            payload={"messages": "{% $messages %}", "isolate": False},
            assign={
                **began,
                arm: {
                    "items": "{% [$states.result.Payload.items.{'message_id': message_id}] %}",
                    "failed": "{% [$states.result.Payload.failed.{'message_id': message_id}] %}",
                },
            },
            output={"groups": "{% [$states.result.Payload.groups] %}"},
        )
        infer = stages.inference.task(
            self,
            f"{arm.capitalize()}: Infer",
            payload={"groups": "{% [$states.input.groups] %}"},
            assign={f"{arm}_groups": "{% [$states.result.Payload.groups] %}"},
            output={},
        )
        ended = sfn.Pass.jsonata(
            self, f"{arm.capitalize()}: Answered", assign={f"{arm}_end": f"{{% {_ENTERED} %}}"}, outputs={}
        )
        none = sfn.Pass.jsonata(self, f"{arm.capitalize()}: Nothing to score", assign={f"{arm}_groups": []}, outputs={})
        any_left = sfn.Choice.jsonata(self, f"{arm.capitalize()}: Anything to score?")
        any_left.when(sfn.Condition.jsonata("{% $count($states.input.groups) > 0 %}"), infer, comment="something")
        any_left.otherwise(none)
        for state in (preprocess, infer):
            # Throttling, and what somebody must repair, say nothing about the model.
            state.add_catch(nothing, errors=[*TRANSIENT_ERRORS, *CONFIGURATION_ERRORS])
            state.add_catch(failed, errors=[sfn.Errors.ALL])
        preprocess.next(any_left)
        infer.next(ended)
        none.next(ended)
        ended.next(then)
        return preprocess
