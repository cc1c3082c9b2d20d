"""Marks on resources, by which tools find the parts of a deployed pipeline in its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import CfnResource

if TYPE_CHECKING:
    from constructs import IConstruct

METADATA_KEY = "cdk-inference"


def mark(construct: IConstruct, role: str, **facts: object) -> None:
    """Write the role of a resource, its pipeline and facts about it into its CloudFormation metadata."""
    resource = cast(
        "CfnResource", construct if CfnResource.is_cfn_resource(construct) else construct.node.default_child
    )
    pipeline = pipeline_path(construct.node.scopes[-2])
    resource.add_metadata(METADATA_KEY, {"role": role, "pipeline": pipeline, **facts})


def pipeline_path(part: IConstruct) -> str:
    """Return the path of the pipeline that a part is in, however deep; of the parent, if the part stands alone."""
    *outer, parent, _ = part.node.scopes
    for scope in (parent, *reversed(outer)):
        if getattr(scope, "is_pipeline", False):
            return str(scope.node.path)
    return str(parent.node.path)
