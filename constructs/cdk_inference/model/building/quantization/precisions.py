"""Conversion of a float model to each precision: pure, so that the same input gives the same bytes on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.quantization.dynamic import convert_dynamic
from cdk_inference.model.building.quantization.half import convert_half
from cdk_inference.model.building.quantization.static import convert_static
from cdk_inference.model.building.quantization.weight_only import convert_weight_only
from cdk_inference.model.recipe.precision import DynamicInt8, Float16, Float32, StaticInt8, WeightOnly, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.model.recipe.precision import GraphPrecision

__all__ = ["convert", "whole"]


def whole(model: onnx.ModelProto, precision: GraphPrecision) -> onnx.ModelProto:
    """Return a float model with all its weights, for a precision whose tools need them at once.

    Raises
    ------
    ModelBuildError
        If it is too large for that.
    """
    fix = "choose WeightOnly(bits=8) or WeightOnly(bits=4), which take one weight after the other"
    return aside.included(model, f"a graph that becomes {describe(precision)}", fix)


def convert(
    model: onnx.ModelProto,
    precision: GraphPrecision,
    ranges: Mapping[str, tuple[float, float]] | None,
    target: str = "arm64",
) -> onnx.ModelProto:
    """Return a copy of a float model in another precision.

    Parameters
    ----------
    model
        Fused and cleaned (see `graph`): names of nodes and values are unique.
    ranges
        Low and high of each activation, from `calibrate`; static int8 alone needs them.
    target
        Architecture of the functions: ``"arm64"``, or ``"x86_64"``, whose weights leave room in 16-bit sums.

    Raises
    ------
    ModelBuildError
        If the precision does not fit the model: nothing to convert, unknown nodes, no ranges, or a result that
        onnxruntime cannot load.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model if isinstance(precision, WeightOnly) else whole(model, precision))
    try:
        match precision:
            case Float32():
                converted = copy
            case Float16():
                converted = convert_half(copy, precision)
            case StaticInt8():
                converted = convert_static(copy, precision, ranges, saturates=target == "x86_64")
            case DynamicInt8():
                converted = convert_dynamic(copy, precision, saturates=target == "x86_64")
            case WeightOnly():
                converted = convert_weight_only(copy, precision)
        converted.ir_version = max(converted.ir_version, model.ir_version)
        if not aside.is_aside(converted):  # such a graph is opened from its files
            open_session(converted.SerializeToString(), exact=False)
    except ModelBuildError:
        raise
    except Exception as error:
        # The tools raise whatever comes when a graph is not what they were written for.
        reason = " ".join(str(error).split())[:300]
        raise ModelBuildError(
            f"the model cannot be converted to {describe(precision)}: {type(error).__name__}: {reason}"
        ) from error
    return converted
