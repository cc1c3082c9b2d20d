"""Old props of the pipeline, which work with a warning for one release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from cdk_inference.common.props.deprecations import warn_deprecated
from cdk_inference.errors import PropError
from cdk_inference.pipeline.execution import Execution

if TYPE_CHECKING:
    from cdk_inference.costs.options import Traffic
    from cdk_inference.pipeline.execution_strategy import ExecutionStrategy


class OldProps(TypedDict, total=False):
    """Props of `InferencePipeline` that `Execution` and `InferencePipeline.advise` replace."""

    fused: bool
    preprocess_memory_size: int
    postprocess_memory_size: int
    traffic: Traffic | None


def chosen_execution(execution: ExecutionStrategy[Any] | None, old: OldProps) -> ExecutionStrategy[Any]:
    """Return the execution that the props of a pipeline choose.

    Raises
    ------
    PropError
        Old and new props contradict each other.
    """
    sizes: dict[str, Any] = {}
    for name in ("preprocess_memory_size", "postprocess_memory_size"):
        if name in old:
            warn_deprecated(f"InferencePipeline({name}=…)", f"execution=Execution.staged({name}=…)")
            sizes[name] = old[name]
    if "fused" in old:
        warn_deprecated("InferencePipeline(fused=…)", "execution=Execution.fused()")
    if execution is not None:
        if given := [*sizes, *(["fused"] if "fused" in old else [])]:
            raise PropError(f"execution must replace {given[0]}, got both; remove {given[0]}")
        return execution
    if not old.get("fused", False):
        return Execution.staged(**sizes)
    if sizes:
        prop = next(iter(sizes))
        raise PropError(f"{prop} must be left out with fused=True, got {sizes[prop]}; use Inference.cpu(memory_size=…)")
    return Execution.fused()
