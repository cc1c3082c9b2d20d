"""Rows of twelve numbers for the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of random rows."""
    random = np.random.default_rng(0)
    for _ in range(4):
        yield {"columns": random.normal(size=(16, 12)).astype(np.float32)}
