"""Asks a policy simulator about requests: the evaluator of MiniStack, which works by AWS's published rules.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.review.access.policies import Document, RolePolicies

MISSING = "the policy simulator is not installed; install it: pip install 'cdk-inference[local,review]'"
"""The reason why no edge was asked about."""

_ALWAYS = {"s3:TlsVersion": "1.3"}  # AWS's SDKs call no older one
_KMS = "kms"  # without its own policy, a key lets nobody in


@dataclass(frozen=True)
class Request:
    """A call that somebody makes.

    Parameters
    ----------
    principal
        The ARN of a role, or the name of a service.
    action, resource
        The call, and the ARN that it is about.
    context
        Condition keys.
    account
        The account of the role and of the resource.
    role
        The policies of the role; None for a service.
    policy
        The policy of the resource; None if it has none, or if it is not known.
    """

    principal: str
    action: str
    resource: str
    context: Mapping[str, str]
    account: str
    role: RolePolicies | None = field(default=None, repr=False)
    policy: Document | None = field(default=None, repr=False)


def installed() -> bool:
    """Return whether the simulator is installed."""
    return importlib.util.find_spec("ministack") is not None


def allowed(request: Request) -> bool | None:
    """Return whether a request is allowed; None if the policies of the template do not tell.

    They do not if a role has policies of AWS or of another stack, or if a policy has variables.
    """
    from ministack.core import iam_evaluator as iam  # noqa: PLC0415 - an extra

    documents = request.role.documents if request.role is not None else ()
    if any("${aws:" in json.dumps(each) for each in (*documents, request.policy)):
        return None
    context = iam.EvalContext(
        principal_arn=request.principal,
        principal_type="Service" if request.role is None else "AssumedRole",
        principal_account="" if request.role is None else request.account,
        action=request.action,
        resource_arn=request.resource,
        region=_region(request.resource),
        source_ip="10.0.0.1",
        secure_transport=True,
        service_context={key.lower(): value for key, value in (_ALWAYS | dict(request.context)).items()},
    )
    if request.role is None:
        found = iam.evaluate_resource_policy(_plain(request.policy), context, service=request.principal)
        return bool(found.decision == "Allow")
    limits = [] if request.role.boundary is None else [[iam.parse_policy_document(_plain(request.role.boundary))]]
    identity = iam.evaluate(context, [iam.parse_policy_document(_plain(each)) for each in documents], *limits)
    required = request.action.startswith(f"{_KMS}:") and request.policy is not None
    found = iam.combine_resource_policy(
        identity, context, _plain(request.policy), request.account, required=required, limits=tuple(limits)
    )
    if found.decision == "Allow":
        return True if request.role.all_limits else None
    return None if found.decision == "ImplicitDeny" and not request.role.all_policies else False


def _region(resource: str) -> str:
    """Return the Region in an ARN; none for a pattern that ends before it, such as ``arn:aws:s3*``."""
    parts = resource.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) > 3 else ""  # noqa: PLR2004 - the fourth part of an ARN


def _plain(document: Document | None) -> dict[str, Any] | None:
    return None if document is None else dict(document)
