"""Removing data takes two keys: the prop and a context flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Annotations, RemovalPolicy

if TYPE_CHECKING:
    from constructs import IConstruct

ALLOW_DESTROY = "cdk-inference:allow-destroy"
"""Context flag without which ``RemovalPolicy.DESTROY`` is not honoured for data."""


def data_removal_policy(scope: IConstruct, requested: RemovalPolicy | None) -> RemovalPolicy:
    """Decide what happens to data when its construct leaves the stack.

    Parameters
    ----------
    scope
        The construct that owns the data; it gets a warning when the request is not honoured.
    requested
        The user's prop; ``None`` means to retain.

    Returns
    -------
    RemovalPolicy
        The requested policy; for DESTROY only if the context flag allows it. Otherwise RETAIN_ON_UPDATE_OR_DELETE: data
        is retained, and what a failed first deployment made, which is empty, goes.
    """
    if requested is None:
        return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
    allowed = str(scope.node.try_get_context(ALLOW_DESTROY)).lower() == "true"
    if requested is not RemovalPolicy.DESTROY or allowed:
        return requested
    Annotations.of(scope).add_warning_v2(
        "cdk-inference:data-retained",
        f"removal_policy=DESTROY is not honoured without the context flag {ALLOW_DESTROY}=true; the data is retained",
    )
    return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
