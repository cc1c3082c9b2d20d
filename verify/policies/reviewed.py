"""Asks the simulator what a review asks MiniStack's evaluator: each call of an app, and its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdk_inference.review.access.simulator import allowed
from cdk_inference.review.access.verdicts import Access
from cdk_inference.review.template import Template
from verify.judges import Finding, Verdict
from verify.policies.requests import Request
from verify.policies.simulator import PACKAGE, Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cdk_inference.review.access.simulator import Request as Asked
    from verify.references import Reference
    from verify.tools import Tools


class ReviewedCalls:
    """Compare the answers of both simulators."""

    name = "the simulator of reviews"
    tools = frozenset({"review"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Ask both about each call that a review of the apps would ask about."""
        return compare({reference.name: reference.template for reference in references}, tools)


def compare(templates: Mapping[str, Mapping[str, Any]], tools: Tools) -> Verdict:
    """Ask both simulators about the calls of apps, and find where they disagree.

    Parameters
    ----------
    templates
        The apps' templates, by name.
    tools
        Where the simulator is.
    """
    simulator = Simulator()
    asked: list[tuple[str, Request, int]] = []
    for app, template in templates.items():
        documents: dict[str, Any] = {}
        for who, each in _calls(Template(app, app, template)):
            mine = allowed(each)
            if mine is not None:
                request = _request(who, each, mine, documents)
                asked.append((app, request, simulator.add(request, documents)))
    answers = simulator.answers(tools.package(PACKAGE))
    applicable = [(app, one, answers[number]) for app, one, number in asked if answers[number] != "NotApplicable"]
    findings = [
        Finding("review", "disagrees", app, one.subject, "", f"{answer}, and not {one.allowed}: {one}")
        for app, one, answer in applicable
        if (answer == "Allowed") != one.allowed
    ]
    return Verdict(len(applicable), findings)


def _calls(template: Template) -> Iterator[tuple[str, Asked]]:
    """Yield each call of a template and its neighbours, with the part that makes it."""
    access = Access(template)
    for edge in access.edges:
        request = access.request(edge)
        if request is not None:
            yield edge.who, request
            yield from ((edge.who, neighbour) for _, neighbour in access.neighbours(request))


def _request(who: str, asked: Asked, mine: bool, documents: dict[str, Any]) -> Request:
    """Return a call as the simulator takes it, and keep its policies under unique names."""
    identity = []
    for number, document in enumerate(asked.role.documents if asked.role is not None else ()):
        identity.append(f"{asked.principal}-{number}")
        documents[identity[-1]] = document
    policy = None
    if asked.policy is not None:
        policy = f"of {asked.resource}"
        documents[policy] = asked.policy
    context = {"aws:SecureTransport": "true", **asked.context}
    if asked.action.startswith("s3:"):
        context["s3:TlsVersion"] = "1.3"
    return Request(who, asked.principal, asked.action, asked.resource, mine, context, tuple(identity), policy)
