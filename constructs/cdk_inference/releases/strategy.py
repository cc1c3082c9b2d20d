"""The interface of every kind of release, and the objects that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages
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

    side_by_side: ClassVar[bool] = True
    """Whether two models run at the same time."""

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
        self, scope: Construct, arms: Arms, stages: Mapping[str, RouteStages], parts: PipelineParts
    ) -> ReleaseControl | None:
        """Create what watches the release and moves its share; None if nothing does.

        Parameters
        ----------
        scope
            The pipeline.
        arms
            The two models.
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
        for arm, route in ((STABLE, self.stable), (CANDIDATE, self.candidate)):
            if route.inference.max_wait is not None:
                raise PropError(
                    f"{arm} must be a route on a CPU, got '{route.name}' on a GPU; release it all at once, or compare "
                    "the models in a separate pipeline"
                )
        if self.stable is self.candidate:
            raise PropError(f"candidate must be another route than stable, got '{self.stable.name}' for both")

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:  # noqa: ARG002 - it names the arms
        """Make both models routes of the plan, and return the JSONata expression that chooses."""
        if not self.answers:
            chosen = self.stable.bind(plan)
            if plan.routes.setdefault(self.candidate.name, self.candidate) is not self.candidate:
                raise PropError(f"names of routes must be unique, got '{self.candidate.name}' twice; rename one")
            return chosen
        stable, candidate = self.stable.bind(plan, STABLE), self.candidate.bind(plan, CANDIDATE)
        return f"($share({string_literal(self.salt)}) * 100 < {SHARE} ? {candidate} : {stable})"


@dataclass(frozen=True)
class AllAtOnce(ReleaseStrategy):
    """See `Release.all_at_once`."""

    side_by_side: ClassVar[bool] = False

    def arms(self, model: Route | None) -> None:
        """Return no arms."""

    def bind(self, scope: Construct, arms: Arms, stages: Mapping[str, RouteStages], parts: PipelineParts) -> None:
        """Create nothing: the deployment itself is the release."""
