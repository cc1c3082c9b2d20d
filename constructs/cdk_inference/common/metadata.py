"""Marks on resources, by which tools find the parts of a deployed pipeline in its template."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import CfnResource, NestedStack, Stack

from cdk_inference.common.props.descriptions import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import IConstruct

    from cdk_inference.model.records.manifest import Manifest

METADATA_KEY = "cdk-inference"

_LONGEST_NAME = 246  # CDK takes 255 for the value of a dimension, and 9 are for the hash

# Every property of a construct is asked of another process, and a pipeline's path does not change.
_KEPT_PATH = "_cdk_inference_path"


def add_metadata(construct: IConstruct, role: str, **facts: object) -> None:
    """Write the role of a resource, its pipeline and facts about it into its CloudFormation metadata."""
    node = construct.node
    resource = construct if isinstance(construct, CfnResource) else cast("CfnResource", node.default_child)
    pipeline = _pipeline_path(node.scopes[:-1])
    resource.add_metadata(METADATA_KEY, {"role": role, "pipeline": pipeline, **facts})


def model_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of the model itself, without what differs when the same model is built again.

    Two measurements stay, so that a review can compare with what is deployed. They are those of the lock, and the same
    wherever the model is built.
    """
    facts: dict[str, Any] = json.loads(manifest.to_json())
    measured = facts.pop("measured")
    if measured is not None:
        facts["measured"] = {name: measured[name] for name in ("deployed_ms", "deployed_peak_mb")}
    facts.pop("baseline", None)  # pages of numbers, which the artifact has
    facts["provenance"] = {name: facts["provenance"][name] for name in ("license", "origin")}
    return facts


def pipeline_path(part: IConstruct) -> str:
    """Return the path of the pipeline that a part is in, however deep; of the parent, if the part stands alone."""
    return _pipeline_path(part.node.scopes)


def metrics_name(part: IConstruct) -> str:
    """Return what metrics and logs call the pipeline that a part is in: ``<stack name>/<path in the stack>``.

    The copies of an app in one account differ by the names of their stacks. The dimension of a metric takes ASCII only,
    so that a path with other characters, or a very long one, ends in a hash.
    """
    owner = part if _is_pipeline(part) else _pipeline(part.node.scopes)
    stacks = (scope for scope in reversed(owner.node.scopes) if isinstance(scope, Stack))
    stack = next(stack for stack in stacks if not isinstance(stack, NestedStack))
    path = _path(owner).removeprefix(_path(stack)).removeprefix("/")
    name = "/".join(filter(None, (stack.stack_name, path)))
    written = described(name, _LONGEST_NAME)
    return written if written == name else f"{written}-{sha256(path.encode()).hexdigest()[:8]}"


def _pipeline_path(scopes: Sequence[IConstruct]) -> str:
    return _path(_pipeline(scopes))


def _pipeline(scopes: Sequence[IConstruct]) -> IConstruct:
    *outer, parent, _ = scopes
    return next((scope for scope in (parent, *reversed(outer)) if _is_pipeline(scope)), parent)


def _is_pipeline(scope: IConstruct) -> bool:
    return getattr(scope, "is_pipeline", False) is True


def _path(construct: IConstruct) -> str:
    path: str | None = getattr(construct, _KEPT_PATH, None)
    if path is None:
        path = construct.node.path
        setattr(construct, _KEPT_PATH, path)
    return path
