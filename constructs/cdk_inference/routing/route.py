"""A route: one model, with what comes before and after it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.routing.inference import Inference

if TYPE_CHECKING:
    from cdk_inference.explanations.explain import Explain, Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.routing.plan import RoutePlan
    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.stages.preprocess import Preprocess

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")


@check_props
@dataclass(frozen=True, eq=False)
class Route:
    """One way to score an item.

    Parameters
    ----------
    name
        The name in rows, states and construct ids: up to 31 letters, digits, dashes and underscores.
    model
        The model to run.
    preprocess
        How the bytes of an object become the model's input.
    postprocess
        How the model's outputs become a prediction. Default: as the pipeline's.
    inference
        Where the model runs. Default: `Inference.cpu`.
    explain
        When and how answers are explained, see `Explain`. Default: never.
    milliseconds
        The latency of one item on one vCPU, or on the GPU in a full batch, for estimates of costs. Default: on a CPU,
        what the model's lock says; on a GPU it is not known: ``benchmarks/gpu.py`` measures it.

    Raises
    ------
    PropError
        The name cannot be used.
    """

    name: str
    model: ModelArtifact = field(kw_only=True)
    preprocess: Preprocess = field(kw_only=True)
    postprocess: Postprocess | None = field(default=None, kw_only=True)
    inference: Inference = field(default_factory=Inference.cpu, kw_only=True)
    explain: Explain | None = field(default=None, kw_only=True)
    milliseconds: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PropError(
                f"route name must be a letter, followed by up to 30 letters, digits, dashes and underscores, got "
                f"'{self.name}'"
            )

    @cached_property
    def explanation(self) -> Explanation | None:
        """The settings of explanations for its functions, which asking for them measures; None without explanations."""
        return None if self.explain is None else self.explain.bind(self.model, self.preprocess)

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        """Make the route a destination of the plan, and return the JSONata expression that names it."""
        if self in plan.instead:
            return plan.instead[self].bind(plan, variant)
        return string_literal(plan.destination(self, variant))
