"""Measures the ranges of a model's activations on data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.quantization.static import activations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnxruntime as ort

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    Batch = Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]

Ranges = dict[str, tuple[float, float]]

RANGE_DIGITS = 4
"""Digits that are kept, so that the last bits of a CPU's float arithmetic do not make another model."""

BINS = 4096
SAMPLED = 1 << 15
"""Values of an activation that are counted per run, evenly spread; extremes are taken over all."""

MEMORY = 256 << 20
"""Bytes of activations that are held at once: batches are split to fit, down to one sample."""

_HUGE = 1e30  # masks of attention are the lowest float: no range to quantize with


def calibrate(
    model: onnx.ModelProto,
    method: str,
    percentile: float,
    batches: Iterable[Batch],
) -> Ranges:
    """Return low and high of each activation that static quantization asks for, over all batches.

    Parameters
    ----------
    model
        The float model, fused and cleaned.
    method
        ``"minmax"`` takes the extremes; ``"percentile"`` clips them.
    percentile
        Share in percent of all values that lies below high, and above low.

    Returns
    -------
    Finite numbers of four digits; without the activations that are infinite by design, such as masks, or empty.

    Raises
    ------
    ModelBuildError
        If there is no data, the model does not take it, or an activation is NaN.
    """
    session, names = _open(model)
    found = {name: _Distribution() for name in names}
    size = 1
    count = 0
    for index, batch in enumerate(batches):
        for part in _split(session, batch, size):
            arrays = _run(session, names, part, index)
            size = _next_size(arrays, part)
            for name, values in zip(names, arrays, strict=True):
                _add(found[name], name, values, index, counted=method == "percentile")
        count += 1
    if count == 0:
        raise ModelBuildError("calibration.data must yield at least one batch, got none")
    share = percentile / 100 if method == "percentile" else 1.0
    return {name: d.range(share) for name, d in found.items() if d.is_quantizable}


@dataclass
class _Distribution:
    """Extremes of an activation, and how often its values fall into bins that grow with them."""

    low: float = float("inf")
    high: float = float("-inf")
    is_quantizable: bool = True
    _start: float = 0.0
    _width: float = 0.0
    _counts: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(0, np.int64))

    def widen(self, low: float, high: float) -> None:
        """Include extremes."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, values: Array) -> None:
        """Count values, all within the extremes."""
        if self._width == 0.0:
            if self.high <= self.low:
                return
            self._start, self._width = self.low, (self.high - self.low) / BINS
            self._counts = np.zeros(BINS + 1, np.int64)
        self._cover()
        places = ((values - np.float32(self._start)) * np.float32(1.0 / self._width)).astype(np.int64)
        np.clip(places, 0, len(self._counts) - 1, out=places)
        self._counts += np.bincount(places, minlength=len(self._counts))

    def _cover(self) -> None:
        """Make bins up to the extremes; join them in pairs when they become many."""
        before = max(0, int(np.ceil((self._start - self.low) / self._width)))
        after = max(0, int(np.ceil((self.high - self._start) / self._width)) + 1 - len(self._counts))
        while before + len(self._counts) + after > 8 * BINS:
            if len(self._counts) % 2:
                self._counts = np.append(self._counts, 0)
            self._counts = self._counts.reshape(-1, 2).sum(axis=1)
            self._width *= 2
            before = max(0, int(np.ceil((self._start - self.low) / self._width)))
            after = max(0, int(np.ceil((self.high - self._start) / self._width)) + 1 - len(self._counts))
        if before or after:
            self._counts = np.pad(self._counts, (before, after))
            self._start -= before * self._width

    def range(self, share: float) -> tuple[float, float]:
        """Return low and high, with zero between them, that the share of the values is above and below."""
        low, high = self.low, self.high
        total = int(self._counts.sum())
        if share < 1.0 and total:
            below = np.cumsum(self._counts)
            first = int(np.searchsorted(below, (1.0 - share) * total, side="right"))
            last = int(np.searchsorted(below, share * total, side="left"))
            low = max(low, self._start + first * self._width)
            high = min(high, self._start + (last + 1) * self._width)
        return _round(min(low, 0.0)), _round(max(high, 0.0))


def _round(value: float) -> float:
    return float(f"{value:.{RANGE_DIGITS - 1}e}") + 0.0  # no negative zero


def _add(found: _Distribution, name: str, values: Array, index: int, *, counted: bool) -> None:
    if not found.is_quantizable:
        return
    if values.size == 0:  # onnxruntime 1.31.1 ends the process in 8-bit sums and products of nothing
        found.is_quantizable = False
        return
    low, high = float(values.min()), float(values.max())
    if np.isnan(low) or np.isnan(high):
        raise ModelBuildError(f"calibration batch {index}: the activation '{name}' must not be NaN; look at the data")
    if low < -_HUGE or high > _HUGE:
        found.is_quantizable = False
        return
    found.widen(low, high)
    if counted:
        flat = values.reshape(-1)
        # An odd step, so that it does not always meet the same channel or column.
        step = max(1, flat.size // SAMPLED) | 1
        found.count(flat[::step])


def _open(model: onnx.ModelProto) -> tuple[ort.InferenceSession, list[str]]:
    """Return a session that gives the activations, and the names of those that are float."""
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    wanted = activations(model.graph)
    present = {v.name for v in model.graph.output}
    # Without a type: onnxruntime infers it, which onnx cannot after operators of onnxruntime's own.
    augmented.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in present)
    try:
        session = open_session(augmented.SerializeToString())
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelBuildError(f"the model cannot be calibrated: {reason}") from error
    floats = {o.name for o in session.get_outputs() if o.type == "tensor(float)"}
    return session, [n for n in wanted if n in floats]


def _run(session: ort.InferenceSession, names: Sequence[str], batch: Batch, index: int) -> list[Array]:
    try:
        return list(session.run(names, dict(batch))) if names else []
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelBuildError(f"calibration batch {index}: the model cannot take it: {reason}") from error


def _split(session: ort.InferenceSession, batch: Batch, size: int) -> Iterator[Batch]:
    """Yield parts of a batch, if all inputs have the same symbolic first size."""
    symbols = {v.shape[0] if v.shape else None for v in session.get_inputs()}
    counts = {len(a) if a.ndim else -1 for a in batch.values()}
    (symbol, samples) = (symbols.pop(), counts.pop()) if len(symbols) == len(counts) == 1 else (None, 0)
    if not isinstance(symbol, str) or samples <= 1:
        yield batch
        return
    for start in range(0, samples, size):
        yield {name: a[start : start + size] for name, a in batch.items()}


def _next_size(arrays: Sequence[Array], batch: Batch) -> int:
    samples = max((len(a) for a in batch.values() if a.ndim), default=1)
    held = sum(a.nbytes for a in arrays)
    return max(1, MEMORY * max(1, samples) // max(1, held))
