"""The account and the Region of what a pipeline is given, as far as they are known at synth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Stack, Token

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import IResource
    from constructs import Construct


def check_environment(scope: Construct, prop: str, resource: IResource, *, fix: str, account: bool = True) -> None:
    """Refuse a resource of another account or Region, which would deploy and then never work.

    Parameters
    ----------
    scope
        The construct that uses the resource.
    prop
        The name of the prop in the message.
    resource
        The resource; what is known only at deployment is not checked.
    fix
        The fix that the message suggests.
    account
        Whether it must be of the stack's account too.

    Raises
    ------
    PropError
        The resource is in another account or Region.
    """
    stack, where = Stack.of(scope), resource.env
    facts = [("Region", stack.region, where.region)]
    if account:
        facts.append(("account", stack.account, where.account))
    for name, expected, got in facts:
        if not (Token.is_unresolved(expected) or Token.is_unresolved(got) or expected == got):
            raise PropError(
                f"{prop} must be in the {name} of stack '{stack.node.path}', {expected}, got one in {got}; {fix}"
            )
