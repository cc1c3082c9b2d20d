"""The interface of every kind of release, and the objects that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages, WorkflowLogs
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.routing.plan import RoutePlan
    from cdk_inference.routing.route import Route

STABLE, CANDIDATE = "stable", "candidate"
"""The arms, as rows name them in the attribute ``variant``."""

SHARE = "$candidate_share"
"""The workflow's variable with the candidate's share, in percent."""


@check_props
class ReleaseStrategy(ABC):
    """How a new model takes over. `Release` has a factory for each kind."""

    @abstractmethod
    def arms(self, model: Route | None) -> Arms | None:
        """Return the two models; None if there is one.

        Parameters
        ----------
        model
            The pipeline's own model, if it has one.

        Raises
        ------
        PropError
            The models do not fit together, or one is given twice.
        """

    @abstractmethod
    def bind(
        self, scope: Construct, arms: Arms, workflows: WorkflowLogs, *, outputs_travel: bool
    ) -> ReleaseControl | None:
        """Create the table of the release, before the functions of its models; None if there is nothing to watch.

        Parameters
        ----------
        scope
            The pipeline.
        arms
            The two models.
        workflows
            Common props of workflows.
        outputs_travel
            Whether the outputs of models leave their functions.

        Raises
        ------
        PropError
            The answers of these models cannot be compared, and must be.
        """

    @abstractmethod
    def watch(self, control: ReleaseControl, stages: Mapping[str, RouteStages], parts: PipelineParts) -> None:
        """Create what watches the release and moves its share.

        Parameters
        ----------
        control
            The release.
        stages
            The stages of each route, by its name.
        parts
            The parts that all routes share.
        """


@dataclass(frozen=True)
class Arms:
    """Two models side by side: a branch that sends a share of the objects to the candidate.

    The share is a variable of the workflow, which reads it from a table. A salted hash of an
    object's identity decides whether it is in the share. So an object that is delivered again goes the same way, and a
    larger share contains each smaller one.

    Parameters
    ----------
    stable, candidate
        The models, with what comes before and after them.
    salt
        Releases with different salts are independent of each other.
    answers
        Whether the candidate writes rows; a shadow does not.
    """

    stable: Route
    candidate: Route
    salt: str
    answers: bool = True

    def __post_init__(self) -> None:
        if self.stable is self.candidate:
            raise PropError(f"candidate must be another route than stable, got '{self.stable.name}' for both")

    @property
    def destinations(self) -> dict[str, str]:
        """The names under which a plan reaches the models, by arm; a shadow is reached by none."""
        if not self.answers:
            return {STABLE: self.stable.name}
        return {STABLE: f"{self.stable.name} ({STABLE})", CANDIDATE: f"{self.candidate.name} ({CANDIDATE})"}

    def route(self, arm: str) -> Route:
        """Return the model of an arm, with what comes before and after it."""
        return self.stable if arm == STABLE else self.candidate

    @property
    def on_gpu(self) -> Route | None:
        """A route whose answers may take longer than an express workflow, if there is one."""
        return next((route for route in (self.stable, self.candidate) if route.inference.max_wait is not None), None)

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        """Make both models routes of the plan, and return the JSONata expression that chooses.

        Raises
        ------
        PropError
            It is part of an experiment, or another route has a name of these.
        """
        if variant is not None:
            raise PropError(
                f"stable must be outside of Routing.split, got '{self.stable.name}' in '{variant}'; end the "
                "experiment first, since its rows would be of two models"
            )
        if not self.answers:
            chosen = string_literal(plan.destination(self.stable, None))
            if plan.routes.setdefault(self.candidate.name, self.candidate) is not self.candidate:
                raise PropError(f"names of routes must be unique, got '{self.candidate.name}' twice; rename one")
            return chosen
        with plan.part(None):  # it grows
            stable = string_literal(plan.destination(self.stable, STABLE))
            candidate = string_literal(plan.destination(self.candidate, CANDIDATE))
        return f"($share({string_literal(self.salt)}) * 100 < {SHARE} ? {candidate} : {stable})"

    def check(self, plan: RoutePlan) -> None:
        """Refuse a plan that does not reach the models, or also without the release.

        Raises
        ------
        PropError
            The routing has no such route, or a cascade or another branch leads to one of the models.
        """
        of_arms = (self.stable, self.candidate)
        reached = [name for name, one in plan.destinations.items() if plan.planned[one.planned].route in of_arms]
        if not reached:
            raise PropError(
                f"stable must be a route of the routing, got '{self.stable.name}'; pass one of {', '.join(plan.routes)}"
            )
        bound = plan.routes.get(self.candidate.name) is self.candidate
        for name in reached:
            if not bound or name not in self.destinations.values():
                raise PropError(
                    f"routing must lead to the models of a release by the release alone, got '{name}'; leave the "
                    "candidate out of the routing, and exchange the models of a cascade all at once"
                )


@dataclass(frozen=True)
class AllAtOnce(ReleaseStrategy):
    """See `Release.all_at_once`."""

    def arms(self, model: Route | None) -> None:
        """Return no arms."""

    def bind(self, scope: Construct, arms: Arms, workflows: WorkflowLogs, *, outputs_travel: bool) -> None:
        """Create nothing: the deployment itself is the release."""

    def watch(self, control: ReleaseControl, stages: Mapping[str, RouteStages], parts: PipelineParts) -> None:
        """Watch nothing."""
