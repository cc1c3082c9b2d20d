"""Routing: which item goes to which model, as JSONata that the workflow itself evaluates."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from cdk_inference.common.jsonata import string_literal
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.routing.plan import GIVE_BACK, Decider, Escalation
from cdk_inference.stages.stage_code import user_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cdk_inference.costs.options import Option, Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.routing.plan import Branch, RoutePlan
    from cdk_inference.routing.route import Route
    from cdk_inference.stages.stage_code import StageCode

_SPECIAL = re.compile(r"[^\w /-]", re.ASCII)

_ANY = r"[\s\S]*"  # a dot does not match line breaks

Value = TypeVar("Value")


@check_props
class Routing:
    """Strategies by which a pipeline chooses the route of each item.

    All but `by_function` are JSONata in the state machine, where a reviewer can read them. Branches are routes, or
    strategies again.
    """

    @staticmethod
    def by_size(*, limit: int, below: Branch, otherwise: Branch) -> Branch:
        """Choose by the size of the object.

        Parameters
        ----------
        limit
            In bytes.
        below, otherwise
            For objects smaller than that, and for the others.

        Raises
        ------
        PropError
            The limit is below 1.
        """
        if limit < 1:
            raise PropError(f"limit must be at least 1 byte, got {limit}")
        # An event without a size is malformed, and any branch finds that out.
        small = f'($type($size) = "number" ? $size < {limit} : false)'
        return _Choice(((small, below),), otherwise)

    @staticmethod
    def by_key(patterns: Mapping[str, Branch], *, otherwise: Branch) -> Branch:
        """Choose by the key of the object.

        Parameters
        ----------
        patterns
            Branches by pattern, such as ``"raw/*.tif"``; the first that matches the whole key counts. A ``*`` stands
            for any characters, slashes too; upper and lower case differ.
        otherwise
            For keys that match none.

        Raises
        ------
        PropError
            There is no pattern, or an empty one.
        """
        _check_branches("patterns", patterns)
        return _Choice(tuple((_matches(pattern), branch) for pattern, branch in patterns.items()), otherwise)

    @staticmethod
    def by_tag(tag: str, values: Mapping[str, Branch], *, otherwise: Branch) -> Branch:
        """Choose by a tag of the object, which the workflow reads from S3.

        Parameters
        ----------
        tag
            Its key.
        values
            Branches by the tag's value.
        otherwise
            For objects without the tag, or with another value.

        Raises
        ------
        PropError
            The tag or its values are empty.
        """
        return _ByAttribute("tags", tag, _check_branches("values", values), otherwise)

    @staticmethod
    def by_metadata(name: str, values: Mapping[str, Branch], *, otherwise: Branch) -> Branch:
        """Choose by user-defined metadata of the object, which the workflow reads from S3.

        Parameters
        ----------
        name
            Without ``x-amz-meta-``; S3 makes it lower case.
        values
            Branches by value.
        otherwise
            For objects without it, or with another value.

        Raises
        ------
        PropError
            The name or the values are empty.
        """
        return _ByAttribute("metadata", name.lower(), _check_branches("values", values), otherwise)

    @staticmethod
    def by_model(routes: Sequence[Route], *, otherwise: Route, metadata: str = "model") -> Branch:
        """Choose the route whose model the object asks for by name, in its metadata.

        Parameters
        ----------
        routes
            The choice.
        otherwise
            For objects that ask for none, or for another.
        metadata
            Name of the user-defined metadata. Default: ``model``, as in ``x-amz-meta-model: efficientnet-lite0``.

        Raises
        ------
        PropError
            Two routes have models of one name.
        """
        names = [route.model.manifest.name for route in routes]
        if len(set(names)) < len(names):
            raise PropError(f"models of the routes must have unique names for by_model, got {', '.join(names)}")
        return Routing.by_metadata(metadata, dict(zip(names, routes, strict=True)), otherwise=otherwise)

    @staticmethod
    def split(weights: Mapping[str, tuple[float, Branch]], *, salt: str | None = None) -> Branch:
        """Send shares of the items to branches: an A/B test, or a percentage.

        Which share an item belongs to is a hash of its bucket, key and version: however often it is delivered, it goes
        the same way. Rows carry the label as ``variant``.

        Parameters
        ----------
        weights
            By label, such as ``{"control": (90, route_a), "candidate": (10, route_b)}``.
        salt
            Two experiments with different salts are independent of each other. Default: the labels.

        Raises
        ------
        PropError
            A weight is not above 0 and finite.
        """
        _check_branches("weights", weights)
        for label, (weight, _) in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise PropError(f"weights must be above 0, got {weight} for '{label}'; leave the branch out instead")
        return _Split(dict(weights), ",".join(weights) if salt is None else salt)

    @staticmethod
    def by_function(
        entry: str | Path,
        branches: Mapping[str, Branch],
        *,
        requirements: Sequence[str] | Path | str = (),
        sources: Sequence[str | Path] = (),
    ) -> Branch:
        """Let your own ``decide(item) -> label`` choose: it knows the object's key, size, version and time.

        Parameters
        ----------
        entry
            ``path/to/file.py:function``.
        branches
            By label. An item for which the function fails, or returns another label, fails: it is tried again, and goes
            to the dead-letter queue in the end.
        requirements
            The packages that it imports, as a list or the path of a requirements file.
        sources
            More files and folders that it needs, put next to it.

        Raises
        ------
        PropError
            The file or the function does not exist, or does not take one argument.
        """
        code = user_code(entry, requirements, sources, takes=("item",))
        return _ByFunction(code, _check_branches("branches", branches))

    @staticmethod
    def cascade(*, first: Route, then: Route, agreement: float | None = None, threshold: float | None = None) -> Branch:
        """Score on a cheap model first, and only what it is unsure of on a better one.

        How sure it is, is the highest softmax of its first output. The row keeps both answers.

        Parameters
        ----------
        first
            Runs on a CPU.
        then
            Runs anywhere.
        agreement
            The share of the evaluation samples on which the cascade must answer as ``then``. The first synth finds the
            threshold, and records it in a lock next to the first recipe. Default: 0.99.
        threshold
            The confidence below which items are escalated, from 0 to 1, if you know better.

        Raises
        ------
        PropError
            A number is out of range, both are given, or the first route is on a GPU.
        ModelBuildError
            The two models' evaluation data are not the same samples, or a frozen lock does not fit.
        """
        check_first("first", first, agreement=agreement, threshold=threshold)
        if first is then:
            raise PropError(f"then must be another route than first, got '{first.name}' for both")
        return _Cascade(first, then, 0.99 if agreement is None and threshold is None else agreement, threshold)

    @staticmethod
    @renamed_props(most_seconds="max_seconds")
    def cheapest(
        *,
        cpu: Route,
        gpu: Route,
        traffic: Traffic,
        first: Route | None = None,
        agreement: float = 0.99,
        max_seconds: float | None = None,
        prices: Prices | None = None,
    ) -> Branch:
        """Choose the cheapest of a CPU, a GPU and a cascade while the app synthesizes, and say why.

        Parameters
        ----------
        cpu, gpu
            The same model, for the one and for the other. Latencies must be known, see `Route`.
        traffic
            The expected traffic.
        first
            A cheap model on the CPU; with it, cascades of it and either of the others are options too.
        agreement
            As in `cascade`.
        max_seconds
            Options are out that may take longer from a full batch's arrival to its rows; a GPU has to start.
        prices
            Default: list prices of us-east-1, see `Prices`.

        Raises
        ------
        PropError
            A latency is not known, or no option is fast enough; the message has the figures.
        """
        return _Cheapest(cpu, gpu, first, agreement, traffic, max_seconds, prices)


def check_first(name: str, first: Route, *, agreement: float | None, threshold: float | None) -> None:
    """Refuse a route that cannot be the first one of a cascade, and numbers that are out of range.

    Parameters
    ----------
    name
        The name of the prop that has the route.
    first
        The route.
    agreement, threshold
        As those of `Routing.cascade`.

    Raises
    ------
    PropError
        A number is out of range, both are given, or the route is on a GPU or has no scores of classes.
    """
    if agreement is not None and threshold is not None:
        raise PropError("threshold must be left out with agreement, by which it is found, got both; leave one out")
    if threshold is not None and not 0 <= threshold <= 1:
        raise PropError(f"threshold must be 0 to 1, got {threshold}")
    if agreement is not None and not 0 < agreement <= 1:
        raise PropError(f"agreement must be above 0 and at most 1, got {agreement}")
    if first.inference.max_wait is not None:
        raise PropError(f"{name} must be a route on a CPU, got '{first.name}' on a GPU; begin with one on a CPU")
    scores = first.model.outputs[0]
    # A model is always sure of a single score. A threshold of 0 sends nothing on, and suits a device's regressor.
    if len(scores.shape) < 2 or (scores.shape[-1] == 1 and threshold != 0):  # noqa: PLR2004 (items and classes)
        raise PropError(
            f"{name} must have a model whose first output holds scores of classes, got '{scores.name}' of "
            f"'{first.name}'; put the scores first among the outputs"
        )


@dataclass(frozen=True)
class _Choice:
    """The branch of the first condition that holds."""

    cases: tuple[tuple[str, Branch], ...]
    otherwise: Branch
    shares: tuple[float, ...] = ()

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        shares = self.shares or (None,) * (len(self.cases) + 1)
        chosen = []
        for (condition, branch), share in zip(self.cases, shares, strict=False):
            with plan.part(share):
                chosen.append(f"{condition} ? {branch.bind(plan, variant)} : ")
        with plan.part(shares[-1]):
            return f"({''.join(chosen)}{self.otherwise.bind(plan, variant)})"


@dataclass(frozen=True)
class _ByAttribute:
    """The branch of a tag or of metadata, looked up in S3."""

    kind: str
    name: str
    values: Mapping[str, Branch]
    otherwise: Branch

    def __post_init__(self) -> None:
        if not self.name:
            raise PropError(f"the name of the {self.kind} must not be empty, got ''; name what to choose by")

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        names = plan.tags if self.kind == "tags" else plan.metadata
        if self.name not in names:
            names.append(self.name)
        found = f"$lookup($m.{self.kind}, {string_literal(self.name)})"
        cases = tuple((f"{found} = {string_literal(value)}", branch) for value, branch in self.values.items())
        return _Choice(cases, self.otherwise).bind(plan, variant)


@dataclass(frozen=True)
class _Split:
    weights: Mapping[str, tuple[float, Branch]]
    salt: str

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        labels = [label if variant is None else f"{variant}/{label}" for label in self.weights]
        total = sum(weight for weight, _ in self.weights.values())
        bounds = [reached / total for reached in accumulate(weight for weight, _ in self.weights.values())]
        *shares, (_, last) = zip(bounds, (branch for _, branch in self.weights.values()), strict=True)
        share = f"$share({string_literal(self.salt)})"
        cases = tuple(
            (f"{share} < {bound:.9f}", _Labelled(branch, label))
            for (bound, branch), label in zip(shares, labels, strict=False)
        )
        parts = tuple(weight / total for weight, _ in self.weights.values())
        return _Choice(cases, _Labelled(last, labels[-1]), parts).bind(plan)


@dataclass(frozen=True)
class _Labelled:
    """A branch whose items belong to a variant."""

    branch: Branch
    label: str

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:  # noqa: ARG002 - it is part of the label
        return self.branch.bind(plan, self.label)


@dataclass(frozen=True)
class _ByFunction:
    code: StageCode
    branches: Mapping[str, Branch]

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        decider = Decider(len(plan.deciders) + 1, self.code)
        plan.deciders.append(decider)
        found = f'$lookup($m.decisions, "{decider.number}")'
        with plan.part(None):
            chosen = "".join(
                f"{found} = {string_literal(label)} ? {branch.bind(plan, variant)} : "
                for label, branch in self.branches.items()
            )
        return f"({chosen}{string_literal(GIVE_BACK)})"


@dataclass(frozen=True)
class _Cascade:
    first: Route
    then: Route
    agreement: float | None
    threshold: float | None

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        calibration = None
        threshold = self.threshold
        if self.agreement is not None:
            from cdk_inference.model.cascade import calibrate  # noqa: PLC0415 - for cascades

            calibration = calibrate(self.first.model, self.then.model, agreement=self.agreement)
            threshold = calibration.threshold
        if threshold is None:
            raise AssertionError("either is given")
        then = plan.destination(self.then, variant)
        version = f"{self.first.model.version}+{self.then.model.version}"
        escalation = Escalation(threshold, then, version, calibration)
        return string_literal(plan.destination(self.first, variant, escalation))


@dataclass(frozen=True)
class _Cheapest:
    cpu: Route
    gpu: Route
    first: Route | None
    agreement: float
    traffic: Traffic
    max_seconds: float | None
    prices: Prices | None

    def bind(self, plan: RoutePlan, variant: str | None = None) -> str:
        if "unbuilt" in (self.cpu.model.version, self.gpu.model.version):
            return self.cpu.bind(plan, variant)  # nothing is deployed of such a stack
        from cdk_inference.costs.estimates import choose  # noqa: PLC0415 - for who lets the costs decide
        from cdk_inference.routing.route_costs import cascade_option, option  # noqa: PLC0415

        branches: dict[str, Branch] = {self.cpu.name: self.cpu, self.gpu.name: self.gpu}
        options: list[Option] = [option(self.cpu, platform=plan.platform), option(self.gpu)]
        if self.first is not None:
            for then in (self.cpu, self.gpu):
                name = f"{self.first.name}, then {then.name}"
                branches[name] = Routing.cascade(first=self.first, then=then, agreement=self.agreement)
                options.append(cascade_option(name, self.first, then, self.agreement, plan.platform))
        decision = choose(options, self.traffic, prices=self.prices, max_seconds=self.max_seconds)
        plan.decisions.append(decision.explain())
        return branches[decision.chosen.name].bind(plan, variant)


def _matches(pattern: str) -> str:
    """Return the condition that the whole key fits a pattern."""
    regex = _ANY.join(_SPECIAL.sub(_escaped, part).replace("/", r"\/") for part in pattern.split("*"))
    return f'($type($key) = "string" ? $contains($key, /^{regex}$/) : false)'


def _escaped(found: re.Match[str]) -> str:
    # By number, since JSONata looks for the end of a regular expression without regard to escaped brackets.
    return r"\." if found[0] == "." else f"\\x{ord(found[0]):02x}" if found[0].isascii() else found[0]


def _check_branches(prop: str, branches: Mapping[str, Value]) -> Mapping[str, Value]:
    if not branches:
        raise PropError(f"{prop} must have at least one branch, got none")
    for label in branches:
        if not label:
            raise PropError(f"labels of {prop} must not be empty, got ''; say what the branch is for")
    return branches
