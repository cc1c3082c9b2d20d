"""The stages of a pipeline, as dashboards and alarms name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.stages.interfaces import IStage


@dataclass(frozen=True)
class NamedStage:
    """A stage of a route.

    Parameters
    ----------
    route, name
        The names of the route and of the stage, such as ``"inference"``.
    routed
        Whether there are several routes, so that the route's name tells stages apart.
    stage
        The stage.
    """

    route: str
    name: str
    routed: bool
    stage: IStage

    @property
    def id(self) -> str:
        """The beginning of ids of constructs."""
        return f"{self.route if self.routed else ''}{self.name.capitalize()}"

    @property
    def label(self) -> str:
        """The name for people."""
        return f"{self.name} of {self.route}" if self.routed else self.name


def stages_of(pipeline: OperatedPipeline) -> list[NamedStage]:
    """Return the functions of the trigger, and the stages of all routes, in the order in which a batch meets them."""
    routed = len(pipeline.routes) > 1
    before = [NamedStage("", name, False, function) for name, function in pipeline.trigger.functions.items()]
    return before + [
        NamedStage(route, name, routed, stage)
        for route, stages in pipeline.routes.items()
        for name, stage in stages.by_name.items()
    ]
