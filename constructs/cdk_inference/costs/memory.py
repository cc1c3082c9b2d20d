"""How much memory a function for inference needs, and how much is worth its price: from what the build measured.

Lambda gives a function CPU in proportion to its memory, and bills memory times duration
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). So memory is chosen for speed, and what the
model needs is the least. All figures are of the machine that searched for the model's precision, and stand in its lock.
They are the same on every machine that synthesizes, and they are not those of Lambda.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import IConstruct

    from cdk_inference.costs.prices import Prices
    from cdk_inference.costs.quantities import Architecture
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.records.manifest import Measured

SIZES = (512, 768, 1024, 1280, 1536, 1769, 2048, 2560, 3072, 3538, 4096, 5307, 6144, 7076, 8192, 8845, 10_240)
"""MiB that are compared: round ones, and those that come with whole vCPUs."""

HEADROOM = 1.25
"""The memory to ask for, as a multiple of the peak: allocators and kernels of other machines differ."""

RUNTIME_MIB = 64
"""Beside the measured process: Lambda's runtime client, the handler and its payloads. Assumed, not measured."""

_MIB = 1024**2
_GIB_MIB = 1024
_MOST_VCPUS = 6


@dataclass(frozen=True)
class MemoryChoice:
    """A memory size, and what one item costs with it.

    Parameters
    ----------
    memory_size
        MiB of the function.
    vcpus
        The vCPUs that Lambda gives with that: memory divided by 1,769 MiB.
    threads
        The threads of the deployed function: one for each vCPU, rounded.
    milliseconds
        The latency of one item.
    measured
        Whether that many threads were measured; estimated by Amdahl's law if not.
    usd_per_million
        Price of the duration of a million items, without requests and starts.
    """

    memory_size: int
    vcpus: float
    threads: int
    milliseconds: float
    measured: bool
    usd_per_million: float


def least_memory(measured: Measured) -> int:
    """Return the MiB that a function needs for a model: the peak of eight items at once, and some headroom.

    A batch that is larger, and does not fit, is halved by the function.
    """
    peak = max(measured.deployed_peak_mb, measured.batch_peak_mb) * 1e6 / _MIB
    return math.ceil(peak * HEADROOM + RUNTIME_MIB)


def choices(
    measured: Measured,
    *,
    architecture: Architecture = "arm64",
    prices: Prices | None = None,
    sizes: Sequence[int] = SIZES,
) -> tuple[MemoryChoice, ...]:
    """Return what one item takes and costs with each memory size that is enough for the model, smallest first.

    Parameters
    ----------
    measured
        From the model's manifest.
    architecture
        The function's architecture. It decides the price alone: no other processor was measured.
    prices
        By default those of `Prices`.
    sizes
        MiB to compare.

    Raises
    ------
    PropError
        If the model needs more than all of them.
    """
    # Here, so that an app's imports do not wait for what only this needs.
    from cdk_inference.costs.prices import Prices  # noqa: PLC0415
    from cdk_inference.costs.quantities import VCPU_MIB  # noqa: PLC0415

    least = least_memory(measured)
    enough = sorted(size for size in sizes if size >= least)
    if not enough:
        raise PropError(
            f"sizes must include one of at least {least} MiB, which the model takes, got at most "
            f"{max(sizes, default=0)} MiB"
        )
    price = (prices or Prices()).lambda_gb_second(architecture)
    found = []
    for size in enough:
        vcpus = min(size / VCPU_MIB, _MOST_VCPUS)
        threads = max(1, round(vcpus))
        milliseconds = _with_threads(measured, threads) * max(1.0, threads / vcpus)
        usd = milliseconds * size / _GIB_MIB * price * 1000  # a million items, in thousandths of a second
        known = threads == 1 or str(threads) in measured.threads_ms
        found.append(MemoryChoice(size, round(vcpus, 2), threads, round(milliseconds, 3), known, round(usd, 4)))
    return tuple(found)


def recommend(found: Sequence[MemoryChoice], *, max_latency_ms: float | None = None) -> MemoryChoice:
    """Return the choice that is worth its price.

    Parameters
    ----------
    found
        The result of `choices`.
    max_latency_ms
        The cheapest that takes no longer for one item. None: where price times latency is least, among what was
        measured.

    Raises
    ------
    PropError
        If none is that fast.
    """
    if max_latency_ms is None:
        measured = [each for each in found if each.measured] or list(found)
        return min(measured, key=lambda each: (each.usd_per_million * each.milliseconds, each.memory_size))
    quick = [each for each in found if each.milliseconds <= max_latency_ms]
    if not quick:
        best = min(found, key=lambda each: each.milliseconds)
        raise PropError(
            f"max_latency_ms must be at least {best.milliseconds:g}, the latency with {best.memory_size} MiB, got "
            f"{max_latency_ms:g}"
        )
    return min(quick, key=lambda each: (each.usd_per_million, each.milliseconds))


def warn_of_memory(scope: IConstruct, model: ModelArtifact, memory_size: float) -> None:
    """Warn at synth if a function has less memory than the model's measured peak asks for.

    Unknown sizes get no warning: a size that is a token, or a model whose pinned precision left its manifest without
    measurements.
    """
    from aws_cdk import Annotations, Token  # noqa: PLC0415 - the command line has no use for the CDK

    measured = model.manifest.measured
    if measured is None or Token.is_unresolved(memory_size) or memory_size >= (least := least_memory(measured)):
        return
    Annotations.of(scope).add_warning_v2(
        "cdk-inference:memory",
        f"memory_size is {memory_size:g} MiB, and {model.manifest.name} needs about {least}: its peak was "
        f"{measured.batch_peak_mb:g} MB with eight items at once where it was built; give the function more, or "
        "acknowledge this if it was measured there",
    )


def _with_threads(measured: Measured, threads: int) -> float:
    """Return the milliseconds of one item, by Amdahl's law from the most that was measured if not measured itself."""
    curve = {int(count): ms for count, ms in measured.threads_ms.items()} or {1: measured.deployed_ms}
    if threads in curve:
        return curve[threads]
    most = max(curve)
    # The share of the work that threads speed up, as the largest number of them showed.
    parallel = (1 - curve[most] / curve[1]) / (1 - 1 / most) if most > 1 else 0.0
    return curve[1] * (1 - min(max(parallel, 0.0), 1.0) * (1 - 1 / threads))
