"""The precisions in which a model may ship, and the policy that chooses among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cdk_inference.model.recipe.checks import check, check_names, check_number

CALIBRATION_METHODS = ("percentile", "minmax")
OBJECTIVES = ("latency", "size")

_FEW = 2  # names that a description spells out
_NODES = "names of nodes or operators, a tuple of strings"


@dataclass(frozen=True)
class Auto:
    """Try what suits the architecture, and ship the best that passes the gate; float32 if nothing does.

    The result is recorded in a lock file next to the recipe.

    Parameters
    ----------
    objective
        The goal: ``"latency"``, then size; or ``"size"``, then latency. A candidate that is measurably slower than
        float32 never ships. Nor does one that loses precision without being faster or smaller.
    keep_float
        Nodes of the exported graph (``"Conv_12"``) or operators (``"Softmax"``) that stay float in every candidate.
    """

    objective: str = "latency"
    keep_float: tuple[str, ...] = ()
    kind: Literal["auto"] = field(default="auto", init=False)

    def __post_init__(self) -> None:
        check(self.objective in OBJECTIVES, "objective", self.objective, f"one of {', '.join(OBJECTIVES)}")
        _check_nodes(self, "keep_float")


@dataclass(frozen=True)
class Float32:
    """Ship the exported graph as it is."""

    kind: Literal["float32"] = field(default="float32", init=False)


@dataclass(frozen=True)
class Float16:
    """Weights and arithmetic in 16-bit float; inputs and outputs stay as declared. Half the size; for GPUs.

    Parameters
    ----------
    keep_float
        Nodes or operators that stay float32.
    """

    keep_float: tuple[str, ...] = ()
    kind: Literal["float16"] = field(default="float16", init=False)

    def __post_init__(self) -> None:
        _check_nodes(self, "keep_float")


@dataclass(frozen=True)
class StaticInt8:
    """Static 8-bit quantization: uint8 activations, int8 weights per channel (QDQ).

    Model outputs, and what follows the last convolutions or products, stay float.

    For convolutional networks. The ranges of the activations are measured on the recipe's calibration data.

    Parameters
    ----------
    method
        ``"percentile"`` clips rare extremes, which suits MobileNet-like networks; ``"minmax"`` clips nothing.
    percentile
        Share in percent of all activation values that stays inside the range, in (50, 100].
    keep_float
        Nodes or operators that stay float.
    dynamic
        Nodes or operators that are quantized dynamically instead, for networks with convolutions and attention.
    """

    method: str = "percentile"
    percentile: float = 99.99
    keep_float: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    kind: Literal["static_int8"] = field(default="static_int8", init=False)

    def __post_init__(self) -> None:
        check(self.method in CALIBRATION_METHODS, "method", self.method, f"one of {', '.join(CALIBRATION_METHODS)}")
        check_number("percentile", self.percentile, "above 50, at most 100", above=50, high=100)
        _check_nodes(self, "keep_float")
        _check_nodes(self, "dynamic")


@dataclass(frozen=True)
class DynamicInt8:
    """Dynamic 8-bit quantization: int8 weights per channel, activations quantized as they come.

    For transformers and recurrent networks; needs no calibration.

    Parameters
    ----------
    keep_float
        Nodes or operators that stay float.
    weight_only
        Matrix products whose weights alone are quantized, to 8 bits in blocks: more exact, less fast.
    """

    keep_float: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()
    kind: Literal["dynamic_int8"] = field(default="dynamic_int8", init=False)

    def __post_init__(self) -> None:
        _check_nodes(self, "keep_float")
        _check_nodes(self, "weight_only")


@dataclass(frozen=True)
class WeightOnly:
    """Weights of matrix products in blocks of 8 or 4 bits with a scale each; needs no calibration.

    Embeddings get 8 bits, or those of a product that has the same matrix.

    Parameters
    ----------
    bits
        8 or 4.
    block_size
        Weights that share a scale: a power of two from 16 to 256.
    keep_float
        Nodes or operators that stay float.
    """

    bits: int = 8
    block_size: int = 128
    keep_float: tuple[str, ...] = ()
    kind: Literal["weight_only"] = field(default="weight_only", init=False)

    def __post_init__(self) -> None:
        check(self.bits in (4, 8), "bits", self.bits, "4 or 8")
        check(self.block_size in (16, 32, 64, 128, 256), "block_size", self.block_size, "16, 32, 64, 128 or 256")
        _check_nodes(self, "keep_float")


GraphPrecision = Float32 | Float16 | StaticInt8 | DynamicInt8 | WeightOnly
"""A precision of one graph that leaves nothing to choose."""


@dataclass(frozen=True)
class PerGraph:
    """A precision for each graph of a model, for a source of several.

    Parameters
    ----------
    graphs
        The precision of each graph, by name.
    """

    graphs: dict[str, GraphPrecision]
    kind: Literal["per_graph"] = field(default="per_graph", init=False)

    def __post_init__(self) -> None:
        kinds = (Float32, Float16, StaticInt8, DynamicInt8, WeightOnly)
        fits = isinstance(self.graphs, dict) and all(isinstance(each, kinds) for each in self.graphs.values())
        check(fits and self.graphs, "precision.graphs", self.graphs, "a dict from graphs to precisions")


Pinned = Float32 | Float16 | StaticInt8 | DynamicInt8 | WeightOnly | PerGraph
"""A precision that leaves nothing to choose."""

Precision = Auto | Pinned


def _check_nodes(precision: object, field_name: str) -> None:
    names = check_names(field_name, getattr(precision, field_name), _NODES)
    object.__setattr__(precision, field_name, names)


def parts(precision: Pinned) -> tuple[GraphPrecision, ...]:
    """Return the precisions of the graphs, or the one of all of them."""
    return tuple(precision.graphs.values()) if isinstance(precision, PerGraph) else (precision,)


def needs_calibration(precision: Precision) -> bool:
    """Tell whether a precision takes ranges from calibration data."""
    return not isinstance(precision, Auto) and any(isinstance(part, StaticInt8) for part in parts(precision))


def describe(precision: Pinned) -> str:
    """Return a precision in words, such as ``"static int8, percentile 99.99, 3 in float"``."""
    match precision:
        case PerGraph():
            return "; ".join(f"{name} {describe(each)}" for name, each in precision.graphs.items())
        case Float32():
            words = ["float32"]
        case Float16():
            words = ["float16"]
        case StaticInt8():
            clipped = f"percentile {precision.percentile:g}" if precision.method == "percentile" else precision.method
            words = ["static int8", clipped]
            if precision.dynamic:
                words.append(f"{', '.join(precision.dynamic)} dynamic" if len(precision.dynamic) <= _FEW else "mixed")
        case DynamicInt8():
            words = ["dynamic int8"]
            if precision.weight_only:
                words.append(f"{len(precision.weight_only)} weight-only")
        case WeightOnly():
            words = [f"weight-only int{precision.bits}", f"blocks of {precision.block_size}"]
    if not isinstance(precision, Float32) and precision.keep_float:
        kept = precision.keep_float
        words.append(f"{', '.join(kept) if len(kept) <= _FEW else len(kept)} in float")
    return ", ".join(words)
