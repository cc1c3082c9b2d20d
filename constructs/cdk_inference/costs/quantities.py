"""Units and sizes that prices count in."""

from __future__ import annotations

from typing import Literal

MONTH_HOURS = 730
"""Hours of a month, as AWS counts them in its examples."""

VCPU_MIB = 1769
"""Memory of a Lambda function that comes with one vCPU."""

GIB = 1024

MILLION = 1e6

HOUR = 3600

_MOST_VCPUS = 6

LEAST_MIB, MOST_MIB = 128, 10_240
"""Memory that a Lambda function can have."""

NETWORK_ENDPOINTS = 4

Architecture = Literal["arm64", "x86_64"]


def on_vcpus(milliseconds: float, memory_size: float, parallel: float = 0.9) -> float:
    """Return the time with that much memory: Amdahl's law above one vCPU, a share of it below."""
    vcpus = min(memory_size / VCPU_MIB, _MOST_VCPUS)
    if vcpus <= 1:
        return milliseconds / vcpus
    return milliseconds * (1 - parallel + parallel / vcpus)


def plural(count: float, noun: str) -> str:
    """Return a number with its noun in the right form."""
    return f"{amount(count)} {noun}" if count == 1 else f"{amount(count)} {noun}s"


def amount(count: float) -> str:
    """Return a number as messages show it."""
    return f"{count:,.2f}" if count < 100 and count != int(count) else f"{count:,.0f}"  # noqa: PLR2004
