"""Reads what a simulation needs from a cloud assembly: the shape of a pipeline, its models, and its batching window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.json_values import mapping
from cdk_inference.costs.recorded import RecordedCosts
from cdk_inference.errors import PropError
from cdk_inference.review.assembly import read_assembly
from cdk_inference.review.template import references

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.costs.options import Option, PipelineShape
    from cdk_inference.review.template import Template


@dataclass(frozen=True)
class RecordedPipeline:
    """A pipeline of a synthesized app.

    Parameters
    ----------
    path
        The path of its construct.
    option
        Its models.
    shape
        Its shape.
    window
        Seconds for which its pipe, or its event source mapping, waits for a batch to fill up; None if the template
        does not tell.
    warm_writes
        Write units a second that its results table takes from the start, if a prop says so.
    """

    path: str
    option: Option
    shape: PipelineShape
    window: float | None
    warm_writes: float | None = None


def read_pipeline(folder: Path, path: str | None = None, *, route: str | None = None) -> RecordedPipeline:
    """Read a pipeline of a cloud assembly.

    Parameters
    ----------
    folder
        The folder that ``cdk synth`` wrote.
    path
        The path of the pipeline. Default: the only one.
    route
        The route that all objects take. Default: the shares of the app.

    Raises
    ------
    PropError
        If there is no such pipeline or route, or its costs or shares are not known.
    ReviewError
        If the folder is not a cloud assembly, or is damaged.
    """
    assembly = read_assembly(folder)
    known = ", ".join(assembly.costs) or "none"
    if path is None and len(assembly.costs) != 1:
        raise PropError(f"pipeline must be one of {known}, got none; name one")
    path = path or next(iter(assembly.costs))
    if path not in assembly.costs:
        raise PropError(f"pipeline must be one of {known}, got '{path}'; name one of them")
    try:
        recorded = RecordedCosts.from_json(assembly.costs[path])
    except ValueError as error:
        raise PropError(
            f"{folder} must be of this version of cdk-inference, got {error}; synthesize it again"
        ) from None
    window, warm_writes = (
        next((value for template in assembly.templates.values() if (value := read(template, path)) is not None), None)
        for read in (_window, _warm_writes)
    )
    return RecordedPipeline(path, _option(recorded, path, route), recorded.shape, window, warm_writes)


def _option(recorded: RecordedCosts, path: str, route: str | None) -> Option:
    routes = ", ".join(recorded.ways)
    if route is not None and route not in recorded.ways:
        raise PropError(f"route must be one of {routes}, got '{route}'; name one of them")
    if route is None and len(recorded.ways) > 1:
        mix = recorded.mix()
        if mix is None:
            raise PropError(
                f"route must be one of {routes}, got none, and nobody knows which share of the objects takes each way "
                f"through {path}; name the one that all take"
            )
        return mix
    name = route or next(iter(recorded.ways))
    option = recorded.ways[name]
    if option is None:
        raise PropError(
            f"milliseconds of route {name} of {path} must be known, got none; pass milliseconds= to its Route, such as "
            "what python -m cdk_inference.model compare measures, or build its model with precision 'auto'"
        )
    return option


def _window(template: Template, path: str) -> float | None:
    """Return the batching window of a pipeline: of what hands messages over to its workflow, or to its function."""
    readers = [
        (pipe.properties.get("Target"), mapping(pipe.properties.get("SourceParameters")).get("SqsQueueParameters"))
        for pipe in template.of_type("AWS::Pipes::Pipe")
    ]
    readers += [
        (each.properties.get("FunctionName"), each.properties)
        for each in template.of_type("AWS::Lambda::EventSourceMapping")
    ]
    for target, settings in readers:
        paths = [template.resources[name].full_path for name in references(target) if name in template.resources]
        window = mapping(settings).get("MaximumBatchingWindowInSeconds")
        if isinstance(window, int) and any(found.startswith(f"{path}/") for found in paths):
            return float(window)
    return None


def _warm_writes(template: Template, path: str) -> float | None:
    """Return the warm throughput of the table that the functions of a pipeline write to, if it is in their stack."""
    for function in template.of_type("AWS::Lambda::Function"):
        if not function.full_path.startswith(f"{path}/"):
            continue
        variables = mapping(mapping(function.properties.get("Environment")).get("Variables"))
        for name in references(variables.get("RESULTS_TABLE")):
            table = template.resources.get(name)
            units = mapping(mapping(table and table.properties.get("WarmThroughput"))).get("WriteUnitsPerSecond")
            if isinstance(units, int):
                return float(units)
    return None
