"""The CPUs that a model is built for."""

from __future__ import annotations

from typing import Literal, get_args

Architecture = Literal["arm64", "x86_64"]
"""Architecture of a function, as Lambda names it."""

Target = Literal["arm64", "x86_64", "any"]
"""The target of a build: float models are the same for every architecture."""

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
DEFAULT_ARCHITECTURE: Architecture = "arm64"
"""That of `LambdaPlatform`."""

WITH_VNNI = "x86_64 with VNNI"
"""x86_64 CPUs that add 8-bit products in 32 bits."""


def exact_on(*, saturates: bool) -> tuple[str, ...]:
    """Return the CPUs on which a model gives the same answers, so that what was measured of its quality holds.

    Parameters
    ----------
    saturates
        Whether it has sums of 8-bit products that could saturate on x86_64 without VNNI.
    """
    return ("arm64", WITH_VNNI if saturates else "x86_64")
