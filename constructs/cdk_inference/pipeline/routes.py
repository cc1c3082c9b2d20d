"""The ways through a workflow: the states of each, and the stages that they invoke."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.service_errors import Kind, state_errors
from cdk_inference.stages.base import NO_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.pipeline.definition import WorkflowDefinition
    from cdk_inference.routing.plan import Escalation
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.interfaces import IStage


@dataclass(frozen=True, kw_only=True)
class WorkflowRoute(ABC):
    """One way through a workflow; a `StagedRoute` or a `FusedRoute`.

    Parameters
    ----------
    name
        The prefix of its states' names. Default: none, for a workflow with one route.
    route
        The route's name on the rows. Default: none.
    """

    name: str = ""
    route: str | None = None

    @property
    def gpu_workflow(self) -> GpuWorkflow | None:
        """The workflow that takes over after preprocessing, if batches may have to wait for inference."""
        return None

    @property
    @abstractmethod
    def model_stage(self) -> IStage:
        """The stage that runs the model."""

    @property
    @abstractmethod
    def express_stages(self) -> Sequence[IStage]:
        """The stages that the express workflow itself invokes."""

    @abstractmethod
    def first_state(self, definition: WorkflowDefinition) -> sfn.CustomState:
        """Make the states of the route, and return the first."""

    @property
    def _label(self) -> str:
        return f"{self.name}: " if self.name else ""


@check_props
@dataclass(frozen=True, kw_only=True)
class StagedRoute(WorkflowRoute):
    """A route whose stages are separate functions.

    Parameters
    ----------
    name, route
        As those of `WorkflowRoute`.
    preprocess, inference, postprocess
        The stages.
    gpu_workflow
        The workflow that takes over after preprocessing, if batches may have to wait for inference.
    escalation
        Passes on items, for the first model of a cascade.
    """

    preprocess: StageFunction
    inference: IStage
    postprocess: StageFunction
    gpu_workflow: GpuWorkflow | None = None
    escalation: Escalation | None = None

    @property
    def model_stage(self) -> IStage:
        """The inference stage."""
        return self.inference

    @property
    def express_stages(self) -> Sequence[IStage]:
        """The stages that the express workflow itself invokes."""
        return [self.preprocess, *([] if self.gpu_workflow else [self.inference]), self.postprocess]

    def first_state(self, definition: WorkflowDefinition) -> sfn.CustomState:
        """Make the states that preprocess, infer and postprocess, and return the first."""
        preprocessing = self.preprocess.task(
            definition.scope,
            f"{self._label}Preprocess",
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
        any_left = sfn.Choice.jsonata(definition.scope, f"{self._label}Anything to score?")
        escalated = (
            {"[$states.result.Payload.unsure.message_id]": self.escalation.then} if self.escalation is not None else {}
        )
        postprocessing = self.postprocess.task(
            definition.scope,
            f"{self._label}Postprocess",
            # The output of the stage before: groups, inference and the version of the model.
            payload=self._postprocess_payload(),
            output={
                "back": "{% [$append($prepared.retry, $states.result.Payload.retry)] %}",
                "failed": "{% [$append($prepared.failed, $states.result.Payload.failures)] %}",
                "parts": definition.parts("[$prepared.unfinished]", escalated),
                **({"answers": "{% [$states.result.Payload.unsure] %}"} if self.escalation else {}),
                **definition.tally("$append($prepared.failed, $states.result.Payload.failures)"),
            },
        )
        score = (
            self._infer(definition, postprocessing)
            if self.gpu_workflow is None
            else self._hand_over(definition, self.gpu_workflow)
        )
        preprocessing.next(any_left)
        any_left.when(
            sfn.Condition.jsonata("{% $count($states.input.groups) = 0 %}"),
            postprocessing,
            # The rows of rejected objects say which model they were meant for.
            outputs={"groups": [], "inference": "none", "model_version": self.inference.model_version or NO_MODEL},
        ).otherwise(score)
        definition.catch(preprocessing)
        definition.catch(postprocessing)
        return preprocessing

    def _infer(self, definition: WorkflowDefinition, postprocessing: sfn.CustomState) -> sfn.CustomState:
        infer = self.inference.task(
            definition.scope,
            f"{self._label}Infer",
            payload={"groups": "{% [$states.input.groups] %}"},
            output="{% $states.result.Payload %}",
        )
        definition.catch(infer)
        infer.next(postprocessing)
        return infer

    def _hand_over(self, definition: WorkflowDefinition, gpu_workflow: GpuWorkflow) -> sfn.CustomState:
        """Start the workflow that may wait, and be done with the batch: from then on it answers for the items."""
        done = {
            "back": "{% [$prepared.retry] %}",
            "failed": "{% [$prepared.failed] %}",
            "parts": definition.parts("[$prepared.unfinished]"),
            **definition.tally("$prepared.failed", written=False),
        }
        start = gpu_workflow.start_task(
            definition.scope,
            f"{self._label}Hand over",
            input={
                "items": "{% $items %}",
                "rejected": "{% $rejected %}",
                "groups": "{% [$states.input.groups] %}",
                **self._row_facts(),
                **definition.handed_over(),
            },
            output=done,
        )
        again = sfn.Pass.jsonata(definition.scope, f"{self._label}Handed over before", outputs=done)
        # The same messages were delivered twice: the execution of that name has them.
        start.add_catch(again, errors=[*state_errors("states:StartExecution", Kind.DONE), "ExecutionAlreadyExists"])
        start.add_catch(definition.give_back, errors=list(state_errors("states:StartExecution", Kind.BUSY)))
        start.add_catch(definition.repair, errors=list(state_errors("states:StartExecution", Kind.CONFIGURATION)))
        start.add_catch(definition.died, errors=[sfn.Errors.ALL])
        return start

    def _row_facts(self) -> Mapping[str, object]:
        """Return what the rows of a routed pipeline say besides the prediction."""
        if self.route is None:
            return {}
        return {
            "first": "{% $merge([{}, $batch[$exists(first)].{message_id: first}]) %}",
            "route": self.route,
            "variant": "{% $variant %}",
        }

    def _postprocess_payload(self) -> str:
        members = "'items': $items, 'rejected': $rejected"
        if self.route is not None:
            members += (
                f", 'route': '{self.route}', 'variant': $variant, "
                "'first': $merge([{}, $batch[$exists(first)].{message_id: first}])"
            )
        if self.escalation is not None:
            members += (
                f", 'row_version': '{self.escalation.row_version}', "
                f"'unsure': [$states.input.confidences[confidence < {self.escalation.threshold}]]"
            )
        return f"{{% $merge([$states.input, {{{members}}}]) %}}"


@check_props
@dataclass(frozen=True, kw_only=True)
class FusedRoute(WorkflowRoute):
    """A route whose stages are one function.

    Parameters
    ----------
    name, route
        As those of `WorkflowRoute`.
    score
        The function: it does what the three stages of a `StagedRoute` do.
    """

    score: StageFunction

    @property
    def model_stage(self) -> IStage:
        """The function."""
        return self.score

    @property
    def express_stages(self) -> Sequence[IStage]:
        """The function."""
        return [self.score]

    def first_state(self, definition: WorkflowDefinition) -> sfn.CustomState:
        """Make the one state, which scores."""
        routed = {} if self.route is None else {"route": self.route, "variant": "{% $variant %}"}
        score = self.score.task(
            definition.scope,
            f"{self._label}Score",
            payload={"messages": "{% $batch %}", "isolate": "{% $isolate %}", **routed},
            output={
                "back": "{% [$states.result.Payload.retry] %}",
                "failed": "{% [$states.result.Payload.failures] %}",
                "parts": definition.parts("[$states.result.Payload.unfinished]"),
                **definition.tally("$states.result.Payload.failures"),
            },
        )
        definition.catch(score)
        return score
