"""Marks on resources, by which tools find the parts of a deployed pipeline in its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import CfnResource

if TYPE_CHECKING:
    from constructs import IConstruct

METADATA_KEY = "cdk-inference"


def mark(construct: IConstruct, role: str, **facts: object) -> None:
    """Write the role of a resource, its pipeline and facts about it into its CloudFormation metadata.

    Parts are children of their pipeline and resources are children of their part, hence two levels up.
    """
    pipeline = construct.node.scopes[-3].node.path
    resource = cast(
        "CfnResource", construct if CfnResource.is_cfn_resource(construct) else construct.node.default_child
    )
    resource.add_metadata(METADATA_KEY, {"role": role, "pipeline": pipeline, **facts})
