"""The plan of a routing: the routes, destinations and look-ups that its branches need."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cdk_inference.common.jsonata import string_literal
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.model.calibration import Calibration
    from cdk_inference.routing.route import Route
    from cdk_inference.stages.stage_code import StageCode

GIVE_BACK = ""
"""The destination of an item that has none, because the lookup failed or nothing decides."""

_LONGEST_NAME = 80 - len(": Anything to score?")  # 80: what Step Functions takes for the name of a state


class Branch(Protocol):
    """Where items may go: a `Route`, or a strategy of `Routing` that chooses among branches."""

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        """Add what is needed to the plan, and return the JSONata expression for the name of an item's destination.

        The expression may use ``$m``, the message with what the plan looked up (``tags``, ``metadata``, ``decisions``),
        ``$key``, ``$size``, and ``$share(salt)``, a number in [0, 1) that is always the same for one object version.
        """


@dataclass(frozen=True)
class Escalation:
    """Passes on the items that the first model of a cascade is not sure of.

    Parameters
    ----------
    threshold
        Items with a lower confidence are escalated.
    then
        The destination of these.
    row_version
        Version in the sort key of rows, the same for both models.
    calibration
        By what the threshold was found; None if it was given.
    """

    threshold: float
    then: str
    row_version: str
    calibration: Calibration | None


@dataclass(frozen=True)
class PlannedRoute:
    """A way through a workflow: the functions of a route, and what a cascade adds to them.

    Parameters
    ----------
    name
        The route's; for the first model of a cascade, both routes'.
    route
        The route whose functions it uses.
    escalation
        If it is the first model of a cascade.
    """

    name: str
    route: Route
    escalation: Escalation | None = None


@dataclass(frozen=True)
class Destination:
    """Where an item may be sent: a planned route, and the variant of an experiment if it is part of one."""

    name: str
    planned: str
    variant: str | None


@dataclass(frozen=True)
class Decider:
    """A function of the user's that decides, with the number under which its decisions are found."""

    number: int
    code: StageCode


@dataclass
class RoutePlan:
    """The needs of a routing, collected while its branches are bound.

    Attributes
    ----------
    routes, planned, destinations
        By name, in the order in which they were met.
    deciders
        The user's functions that decide.
    tags, metadata
        Names of the tags and of the metadata that are looked up for each object; others are not kept.
    expression
        JSONata for the name of an item's destination.
    decisions
        The decisions of the synth, and why.
    instead
        The branches that take the place of a route wherever it is met, as those of a release do.
    platform
        The platform of the functions, if the props name one.
    shares
        By name of the destination: the share of the items that is sent there from the queue, or None if that depends on
        the items.
    """

    routes: dict[str, Route] = field(default_factory=dict)
    planned: dict[str, PlannedRoute] = field(default_factory=dict)
    destinations: dict[str, Destination] = field(default_factory=dict)
    deciders: list[Decider] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    expression: str = ""
    decisions: list[str] = field(default_factory=list)
    instead: Mapping[Route, Branch] = field(default_factory=dict)
    platform: LambdaPlatform | None = None
    shares: dict[str, float | None] = field(default_factory=dict)
    _share: float | None = 1.0

    @classmethod
    def of(
        cls,
        branch: Branch,
        instead: Mapping[Route, Branch] | None = None,
        platform: LambdaPlatform | None = None,
    ) -> RoutePlan:
        """Bind a routing, and return its plan."""
        plan = cls(instead=instead or {}, platform=platform)
        plan.expression = branch.bind(plan)
        return plan

    @property
    def entry(self) -> str:
        """The destination of every item, if there is nothing to choose; otherwise ``""``."""
        return str(json.loads(self.expression)) if self.expression.startswith('"') else GIVE_BACK

    @property
    def first_hand(self) -> dict[str, PlannedRoute]:
        """The routes that items are sent to from the queue, by name, but those that only get what a cascade passes on.

        A route without escalation counts, where items also take it alone.
        """
        found: dict[str, PlannedRoute] = {}
        for name, destination in self.destinations.items():
            planned = self.planned[destination.planned]
            if string_literal(name) in self.expression and (planned.route.name not in found or not planned.escalation):
                found[planned.route.name] = planned
        return found

    @contextmanager
    def part(self, share: float | None) -> Iterator[None]:
        """Give a share of the items that come here to the branches that are bound within; None if nobody knows it."""
        whole = self._share
        self._share = None if whole is None or share is None else whole * share
        try:
            yield
        finally:
            self._share = whole

    @property
    def planned_shares(self) -> dict[str, float | None]:
        """The shares of the items by planned route, as far as items are sent there from the queue.

        An item that a cascade passes on counts for the first route of the cascade.
        """
        found: dict[str, float | None] = {}
        for name, share in self.shares.items():
            if string_literal(name) in self.expression:
                planned = self.destinations[name].planned
                others = found.get(planned, 0.0)
                found[planned] = None if share is None or others is None else others + share
        return found

    @property
    def routes_and_variants(self) -> list[tuple[str, str | None]]:
        """The pairs of route and variant that rows may have; a model that only compares is in none."""
        pairs = ((self.planned[each.planned].route.name, each.variant) for each in self.destinations.values())
        return list(dict.fromkeys(pairs))

    def destination(self, route: Route, variant: str | None, escalation: Escalation | None = None) -> str:
        """Return the name under which a route is reached.

        Raises
        ------
        PropError
            Another route has the name, or another cascade the same two routes.
        """
        if self.routes.setdefault(route.name, route) is not route:
            raise PropError(f"names of routes must be unique, got '{route.name}' twice; rename one")
        label = route.name if escalation is None else f"{route.name}>{self.destinations[escalation.then].planned}"
        name = label if variant is None else f"{label} ({variant})"
        if escalation is not None:
            label = name  # it escalates to a destination that knows the variant
        if len(label) > _LONGEST_NAME:
            raise PropError(
                f"state names must have at most 80 characters, got longer ones for '{label}'; shorten the "
                "names of routes and labels"
            )
        planned = PlannedRoute(label, route, escalation)
        if self.planned.setdefault(label, planned) != planned:
            raise PropError(f"cascade '{label}' must have one threshold, got two; use the same cascade in both places")
        self.destinations[name] = Destination(name, label, variant)
        others = self.shares.get(name, 0.0)
        self.shares[name] = None if self._share is None or others is None else others + self._share
        return name
