"""Estimates the cost of a pipeline at published prices, and finds the cheapest option."""

from cdk_inference.costs.advice import AlwaysOnAdvice, always_on_advice
from cdk_inference.costs.edge import EdgeCosts, EdgeTraffic
from cdk_inference.costs.estimates import CostLine, Decision, Estimate, choose, estimate
from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, PipelineShape, SplitOption, Traffic
from cdk_inference.costs.prices import SOURCES, Prices
from cdk_inference.costs.retrainings import RetrainingCosts

__all__ = [
    "SOURCES",
    "AlwaysOnAdvice",
    "CascadeOption",
    "CostLine",
    "CpuOption",
    "Decision",
    "EdgeCosts",
    "EdgeTraffic",
    "Estimate",
    "GpuOption",
    "PipelineShape",
    "Prices",
    "RetrainingCosts",
    "SplitOption",
    "Traffic",
    "always_on_advice",
    "choose",
    "estimate",
]
