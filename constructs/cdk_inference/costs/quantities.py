"""Units and sizes that prices count in, and checks of numbers."""

from __future__ import annotations

import math
from typing import Literal

from cdk_inference.errors import PropError

MONTH_HOURS = 730
"""Hours of a month, as AWS counts them in its examples."""

VCPU_MIB = 1769
"""Memory of a Lambda function that comes with one vCPU."""

GIB = 1024

MILLION = 1e6

HOUR = 3600

_MOST_VCPUS = 6

_MOST_MIB = 10_240

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


def check_memory(name: str, value: int) -> None:
    """Refuse a memory size that Lambda does not have, in MiB."""
    if not 128 <= value <= _MOST_MIB:  # noqa: PLR2004
        raise PropError(f"{name} is {value} MiB; Lambda takes 128 to {_MOST_MIB}")


def check_at_least(least: float, **values: float) -> None:
    """Refuse values below a bound, infinite ones, and NaN."""
    for name, value in values.items():
        if not (value >= least and math.isfinite(value)):
            raise PropError(f"{name} is {value}; it must be at least {least:g}, and finite")


def check_above_zero(**values: float) -> None:
    """Refuse values that are not above 0, infinite ones, and NaN."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise PropError(f"{name} is {value}; it must be more than 0, and finite")


def check_share(**values: float) -> None:
    """Refuse values outside of 0 to 1, and NaN."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise PropError(f"{name} is {value}; it is a share, between 0 and 1")
