"""Rows of tables, with values that are missing, for the cases that are trained here."""

from __future__ import annotations

import numpy as np
import onnx


def holes(x: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Return a table in which values are missing at random, as 32-bit floats."""
    random = np.random.default_rng(0)
    return np.where(random.random(x.shape) < share, np.nan, x).astype(np.float32)


def shuffled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in another order, which is always the same."""
    order = np.random.default_rng(0).permutation(len(y))
    return x[order], y[order]


def samples(x: np.ndarray, start: int, stop: int) -> list[dict[str, np.ndarray]]:
    """Return rows as the inputs of a model."""
    return [{"x": row} for row in x[start:stop]]


def keep(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Leave out the outputs that nobody asks for, such as the label next to the probabilities."""
    left = [each for each in model.graph.output if each.name == output]
    del model.graph.output[:]
    model.graph.output.extend(left)
    return model
