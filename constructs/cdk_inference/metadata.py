"""Marks on resources, by which tools find the parts of a deployed pipeline in its template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import CfnResource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import IConstruct

    from cdk_inference.model.manifest import Manifest

METADATA_KEY = "cdk-inference"

# Every property of a construct is asked of another process, and a pipeline's path does not change.
_KEPT_PATH = "_cdk_inference_path"


def mark(construct: IConstruct, role: str, **facts: object) -> None:
    """Write the role of a resource, its pipeline and facts about it into its CloudFormation metadata."""
    node = construct.node
    resource = construct if isinstance(construct, CfnResource) else cast("CfnResource", node.default_child)
    pipeline = _pipeline_path(node.scopes[:-1])
    resource.add_metadata(METADATA_KEY, {"role": role, "pipeline": pipeline, **facts})


def model_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of the model itself, without what another build of the same model says differently.

    In apps without CDK's feature flags, a function's metadata is part of what its versions are named by.
    """
    facts: dict[str, Any] = json.loads(manifest.to_json())
    del facts["measured"]
    facts["provenance"] = {name: facts["provenance"][name] for name in ("license", "origin")}
    return facts


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
