"""Simulates a pipeline under load, and says what breaks first. It knows AWS's quotas as documented, and prices."""

from cdk_inference.simulation.arrivals import Arrivals
from cdk_inference.simulation.assumptions import Assumptions
from cdk_inference.simulation.quotas import DOCUMENTED, Quota, Quotas, QuotaUse
from cdk_inference.simulation.results import Latencies, Series, SimulationResult
from cdk_inference.simulation.simulator import simulate
from cdk_inference.simulation.sweep import Sweep, sweep

__all__ = [
    "DOCUMENTED",
    "Arrivals",
    "Assumptions",
    "Latencies",
    "Quota",
    "QuotaUse",
    "Quotas",
    "Series",
    "SimulationResult",
    "Sweep",
    "simulate",
    "sweep",
]
