"""What a pipeline costs at published prices, and which option is the cheapest."""

from cdk_inference.costs.costs import (
    AlwaysOnAdvice,
    CascadeOption,
    CostLine,
    CpuOption,
    Decision,
    Estimate,
    GpuOption,
    PipelineShape,
    Traffic,
    always_on_advice,
    choose,
    estimate,
)
from cdk_inference.costs.prices import SOURCES, Prices

__all__ = [
    "SOURCES",
    "AlwaysOnAdvice",
    "CascadeOption",
    "CostLine",
    "CpuOption",
    "Decision",
    "Estimate",
    "GpuOption",
    "PipelineShape",
    "Prices",
    "Traffic",
    "always_on_advice",
    "choose",
    "estimate",
]
