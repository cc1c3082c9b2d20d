"""The verdicts on each edge: whether it is allowed, and what else is allowed with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cdk_inference.review.access.edges import Edges
from cdk_inference.review.access.names import Names
from cdk_inference.review.access.policies import Policies, RolePolicies
from cdk_inference.review.access.simulator import Request, allowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.review.access.policies import Document
    from cdk_inference.review.access.wiring import Edge
    from cdk_inference.review.template import Template

_NEIGHBOUR = "-neighbour"
_ELSEWHERE = "elsewhere"
_DELEGATING = "arn:aws:iam::{}:root"


@dataclass(frozen=True)
class Verdict:
    """The verdict on an edge.

    Parameters
    ----------
    allowed
        Whether the call is allowed; None if the template does not tell.
    beyond
        The neighbours for which the call is allowed as well, such as ``a neighbour of it``.
    """

    allowed: bool | None
    beyond: tuple[str, ...] = ()


class Access:
    """The calls of a template's parts, with the verdicts on them.

    Parameters
    ----------
    template
        The template.
    """

    def __init__(self, template: Template) -> None:
        self._names = Names(template)
        self._policies = Policies(self._names)
        self._edges = Edges(self._names, self._policies)

    @cached_property
    def edges(self) -> list[Edge]:
        """All edges."""
        return self._edges.all

    def needs(self, edge: Edge) -> bool:
        """Return whether the app does not work without an edge."""
        return self._edges.needs(edge)

    def verdict(self, edge: Edge) -> Verdict | None:
        """Return the verdict on an edge, of this template or of another; None if an end of it does not exist here."""
        request = self.request(edge)
        if request is None:
            return None
        beyond = (words for words, each in self.neighbours(request) if allowed(each))
        return Verdict(allowed(request), tuple(dict.fromkeys(beyond)))

    def request(self, edge: Edge) -> Request | None:
        """Return the call of an edge with the names of this template; None if an end of it does not exist here."""
        principal, resource = self._names.with_arns(edge.principal), self._names.with_arns(edge.resource)
        context = {key: self._names.with_arns(value) for key, value in edge.context}
        if principal is None or resource is None or None in context.values():
            return None
        role = self._policies.roles.get(principal)
        if role is None and principal.startswith("arn:"):
            return None
        action = edge.action.rstrip("*")  # grants of CDK name actions such as s3:GetObject*
        known = {key: value for key, value in context.items() if value is not None}
        return self._made(principal, action, _inside(resource), known, role)

    def neighbours(self, request: Request) -> Iterator[tuple[str, Request]]:
        """Yield the calls that are much like one and must be denied, each with what it is about in words."""
        if request.role is not None:
            for words, resource in _near(request.resource):
                policy = self._policy(request.resource) if request.action.startswith("kms:") else None
                neighbour = replace(request, resource=resource, policy=self._delegated(policy))
                yield words, neighbour
        for key in request.context:
            yield f"another {key}", replace(request, context={**request.context, key: _ELSEWHERE})

    def _made(
        self, principal: str, action: str, resource: str, context: dict[str, str], role: RolePolicies | None
    ) -> Request:
        policy = self._policy(resource)
        return Request(principal, action, resource, context, self._names.account, role, policy)

    def _policy(self, resource: str) -> Document | None:
        """Return the policy of a resource, such as that of a bucket for its objects."""
        if resource in self._policies.resources:
            return self._policies.resources[resource]
        owner = self._names.owner(resource)
        return None if owner is None else self._policies.resources.get(self._names.arns[owner.logical_id])

    def _delegated(self, policy: Document | None) -> Document | None:
        """Return the policy of a neighbour of a key, which leaves its use to the account's own policies, as CDK's do.

        Without it no role could use the neighbour, and a permission for all keys would not show.
        """
        if policy is None:
            return None
        root = {"AWS": [_DELEGATING.format(self._names.account)]}
        statement = {"Effect": "Allow", "Principal": root, "Action": ["kms:*"], "Resource": ["*"]}
        return {"Version": "2012-10-17", "Statement": [statement]}


def _inside(resource: str) -> str:
    """Return something that a pattern such as ``arn:aws:s3:::bucket/in/*`` is about."""
    return resource if resource == "*" else resource.replace("*", "a")


def _near(resource: str) -> Iterator[tuple[str, str]]:
    """Yield ARNs of what is named much like a resource, each with what it is in words."""
    if not resource.startswith("arn:"):
        return
    if ":s3:::" in resource:
        bucket, slash, key = resource.partition("/")
        yield "a neighbour of it", f"{bucket}{_NEIGHBOUR}{slash}{key}"
        if "/" in key:
            yield "another folder", f"{bucket}/{_ELSEWHERE}/a"
    elif ":function:" in resource:
        head, _, tail = resource.partition(":function:")
        name, colon, qualifier = tail.partition(":")
        yield "a neighbour of it", f"{head}:function:{name}{_NEIGHBOUR}{colon}{qualifier}"
        if colon:
            yield "another version", f"{head}:function:{name}:{_ELSEWHERE}"
    elif ":log-group:" in resource:
        head, _, tail = resource.partition(":log-group:")
        group, colon, stream = tail.partition(":")
        yield "a neighbour of it", f"{head}:log-group:{group}{_NEIGHBOUR}{colon}{stream}"
    else:
        yield "a neighbour of it", f"{resource}{_NEIGHBOUR}"
