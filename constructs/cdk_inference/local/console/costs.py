"""The costs of a pipeline in AWS: of what has run here, and of a month of traffic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.costs.estimates import estimate
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import MILLION
from cdk_inference.costs.recorded import METADATA_KEY, RecordedCosts
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cdk_inference.costs.options import Traffic


def costs(assembly: Path, pipeline: str, traffic: Traffic, *, rows: int) -> dict[str, Any]:
    """Return what each way through a pipeline costs, if all traffic takes it.

    Parameters
    ----------
    assembly
        The cloud assembly that was deployed, in which the shape of the pipeline is recorded.
    pipeline
        The path of the pipeline.
    traffic
        A month's traffic.
    rows
        How many rows have been written here.
    """
    recorded = _recorded(assembly, pipeline)
    prices = Prices()
    known = {} if recorded is None else {name: way for name, way in recorded.ways.items() if way is not None}
    shape = None if recorded is None else recorded.shape
    ways = []
    for name, option in known.items():
        try:
            found = estimate(option, traffic, shape=shape, prices=prices)
        except PropError:  # no price of such an instance
            continue
        per_million = found.usd_per_million
        ways.append(
            {
                "name": name,
                "usd_per_month": found.usd_per_month,
                "usd_per_million": per_million,
                "usd_so_far": None if per_million is None else per_million * rows / MILLION,
                "lines": [[line.service, line.usd, line.how] for line in found.lines],
            }
        )
    return {
        "ways": ways,
        "traffic": traffic.describe(),
        "region": prices.region,
        "as_of": str(prices.as_of),
        "rows": rows,
    }


def _recorded(assembly: Path, pipeline: str) -> RecordedCosts | None:
    """Return what the assembly says of a pipeline; None if it says nothing that this version understands."""
    for text in _texts(assembly, pipeline.partition("@")[0]):
        try:
            return RecordedCosts.from_json(text)
        except ValueError:
            continue
    return None


def _texts(folder: Path, pipeline: str) -> Iterator[str]:
    for artifact in mapping(_json(folder / "manifest.json").get("artifacts")).values():
        properties = mapping(artifact.get("properties"))
        if artifact.get("type") == "cdk:cloud-assembly":
            yield from _texts(folder / str(properties.get("directoryName")), pipeline)
        entries = dict(mapping(artifact.get("metadata")))
        if "additionalMetadataFile" in artifact:
            entries |= _json(folder / str(artifact["additionalMetadataFile"]))
        for entry in entries.get(f"/{pipeline}", ()):
            if entry.get("type") == METADATA_KEY:
                yield str(entry["data"])


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # such as after a deployment of a given cloud assembly
