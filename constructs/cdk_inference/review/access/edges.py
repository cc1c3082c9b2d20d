"""The edges of an app: which part makes which call, by how the parts are wired and by what their roles name."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from cdk_inference.review.access.policies import statements
from cdk_inference.review.access.wiring import ROLES, Edge, Wiring, named, shown_path
from cdk_inference.review.graphs import connections
from cdk_inference.review.template import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.review.access.names import Names
    from cdk_inference.review.access.policies import Policies
    from cdk_inference.review.template import Resource

_ARN_PARTS = 6
_ANY = re.compile(r"[*?]")
_PATTERNS = ("arnequals", "arnlike", "stringlike")  # to others, a star is a star
# Operators that a value of theirs satisfies; the value of others, such as Null, says something else.
_SATISFIED = frozenset(
    {"arnequals", "arnlike", "bool", "stringequals", "stringequalsignorecase", "stringlike", "numericequals"}
)
_SETS = ("foranyvalue:", "forallvalues:")


class Edges:
    """The edges of a template.

    Parameters
    ----------
    names, policies
        The names and the policies in it.
    """

    def __init__(self, names: Names, policies: Policies) -> None:
        self._names = names
        self._policies = policies
        self._template = names.template
        self._wiring = Wiring(names, policies)

    @cached_property
    def all(self) -> list[Edge]:
        """The calls by which the parts are wired, and those that the policies of roles name."""
        return sorted({*self._wiring.edges, *self._granted()})

    def needs(self, edge: Edge) -> bool:
        """Return whether the template itself needs a call.

        It does if the parts are wired by it. It also does if the part that calls refers to the target, such as in an
        environment variable, or if the target feeds that part. The key of such a target is needed too.
        """
        if edge in self._wiring.edges:
            return True
        role, target = (
            self._names.owner(self._names.with_arns(each) or "") for each in (edge.principal, edge.resource)
        )
        if role is None:
            return False
        if target is not None:
            return target.logical_id in self._used.get(role.logical_id, ())
        bucket = edge.resource.rpartition(":")[2].partition("/")[0]
        return edge.resource.startswith("arn:") and f'"{bucket}"' in self._texts.get(role.logical_id, "")

    # --- what the policies of roles name ---

    def _granted(self) -> Iterator[Edge]:
        for arn, policies in self._policies.roles.items():
            role, who = self._names.with_paths(arn), self._who(arn)
            for statement in statements(policies.documents):
                context = _context(statement.get("Condition", {}))
                if statement.get("Effect") != "Allow" or context is None:
                    continue
                about = tuple((key, self._names.with_paths(value)) for key, value in sorted(context.items()))
                for action in statement.get("Action", ()):
                    for resource in statement.get("Resource", ()):
                        if _names_something(action, resource):
                            yield Edge(who, role, action, self._names.with_paths(resource), about)

    def _who(self, arn: str) -> str:
        """Return the path of what has a role; the first of several."""
        role = self._names.owner(arn)
        users = self._users.get(role.logical_id) if role is not None else None
        return shown_path(users[0]) if users else self._names.with_paths(arn).removeprefix("${").removesuffix("}")

    # --- what uses what ---

    @cached_property
    def _users(self) -> dict[str, list[Resource]]:
        """The resources that have a role, by the role's logical id."""
        found: dict[str, list[Resource]] = defaultdict(list)
        for resource in self._template.resources.values():
            for value in named(resource.properties, ROLES):
                for name in references(value):
                    found[name].append(resource)
        return found

    @cached_property
    def _used(self) -> dict[str, set[str]]:
        """The resources that what has a role refers to, or that feed it, and their keys, by the role's logical id."""
        before: dict[str, set[str]] = defaultdict(set)
        for edge in connections(self._template):
            before[edge.target].add(edge.source)
        found = {}
        for role, users in self._users.items():
            names = {user.logical_id for user in users}
            while more := {name for each in names for name in before.get(each, ())} - names:
                names |= more
            names |= {name for user in users for name in references(user.properties)}
            resources = [self._template.resources[name] for name in names if name in self._template.resources]
            names |= {key for each in resources for key in self._wiring.keys_of(each)}
            found[role] = names
        return found

    @cached_property
    def _texts(self) -> dict[str, str]:
        """The properties of what has a role, and of all that feeds it, as text, by the role's logical id."""
        return {
            role: json.dumps(
                [
                    self._names.resolve(self._template.resources[name].properties)
                    for name in sorted(names)
                    if name in self._template.resources and name != role
                ]
            )
            for role, names in self._used.items()
        }


def _names_something(action: str, resource: str) -> bool:
    """Return whether a grant is about something: not all actions of a service, and not all resources of one."""
    *_, name = resource.split(":", _ARN_PARTS - 1)
    return not action.partition(":")[2].startswith("*") and (resource == "*" or bool(name.partition("*")[0]))


def _context(condition: Mapping[str, Mapping[str, list[str]]]) -> dict[str, str] | None:
    """Return condition keys that satisfy a condition; None if nobody knows, for it says more than equal or like."""
    found: dict[str, str] = {}
    for operator, tests in condition.items():
        name = operator.lower().removesuffix("ifexists")
        for prefix in _SETS:
            name = name.removeprefix(prefix)
        if name not in _SATISFIED:
            return None
        for key, values in tests.items():
            value = next(iter(values), "")
            found[key] = _ANY.sub("a", value) if name in _PATTERNS else value
    return found
