"""Marks on resources, by which tools find the parts of a deployed pipeline in its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import CfnResource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import IConstruct

METADATA_KEY = "cdk-inference"

# Every property of a construct is asked of another process, and a pipeline's path does not change.
_KEPT_PATH = "_cdk_inference_path"


def mark(construct: IConstruct, role: str, **facts: object) -> None:
    """Write the role of a resource, its pipeline and facts about it into its CloudFormation metadata."""
    node = construct.node
    resource = construct if isinstance(construct, CfnResource) else cast("CfnResource", node.default_child)
    pipeline = _pipeline_path(node.scopes[:-1])
    resource.add_metadata(METADATA_KEY, {"role": role, "pipeline": pipeline, **facts})


def pipeline_path(part: IConstruct) -> str:
    """Return the path of the pipeline that a part is in, however deep; of the parent, if the part stands alone."""
    return _pipeline_path(part.node.scopes)


def _pipeline_path(scopes: Sequence[IConstruct]) -> str:
    *outer, parent, _ = scopes
    for scope in (parent, *reversed(outer)):
        if getattr(scope, "is_pipeline", False):
            return _path(scope)
    return _path(parent)


def _path(construct: IConstruct) -> str:
    path: str | None = getattr(construct, _KEPT_PATH, None)
    if path is None:
        path = construct.node.path
        setattr(construct, _KEPT_PATH, path)
    return path
