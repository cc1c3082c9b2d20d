"""Static int8 quantization: uint8 activations, int8 weights per channel, in QDQ format.

U8S8 rather than S8S8: the latter is several times slower on x86, and both run on Arm's int8 dot products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from cdk_inference.model.build.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cdk_inference.model.build.data import Batch
    from cdk_inference.model.recipe import StaticInt8

# Operators with an int8 kernel on the CPU, and those between them that can pass 8-bit values on.
OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Resize",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
RANGE_DIGITS = 4


def quantize(model: onnx.ModelProto, precision: StaticInt8, batches: Iterable[Batch], work: Path) -> onnx.ModelProto:
    """Calibrate on the batches and return the quantized model; its outputs are not quantized."""
    outputs = {o.name for o in model.graph.output}
    quantizer = QDQQuantizer(
        onnx.ModelProto.FromString(model.SerializeToString()),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_calibrate(model, precision, batches, work),
        nodes_to_quantize=[],
        # The quantizer drops activations, whose effect its ranges include. Outputs are to keep theirs.
        nodes_to_exclude=[
            n.name for n in model.graph.node if n.op_type in {"Clip", "Relu"} and outputs.intersection(n.output)
        ],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _keep_outputs_float(quantized.graph)
    return quantized


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batch: Batch) -> None:
        self._batches = iter([batch])

    def get_next(self) -> Any:  # noqa: ANN401 - the base class says dict and returns None at the end
        return next(self._batches, None)


def _calibrate(model: onnx.ModelProto, precision: StaticInt8, batches: Iterable[Batch], work: Path) -> TensorsData:
    """Return the range of each activation, pooled over all batches.

    One batch at a time: the calibrator keeps every activation of all it is given at once.
    """
    method = CalibrationMethod.Percentile if precision.method == "percentile" else CalibrationMethod.MinMax
    options = {"percentile": precision.percentile} if precision.method == "percentile" else {}
    graph, augmented = work / "calibrate.onnx", work / "augmented.onnx"
    onnx.save(model, graph)
    calibrator = create_calibrator(
        graph, None, augmented_model_path=str(augmented), calibrate_method=method, extra_options=options
    )
    calibrator.infer_session = open_session(augmented.read_bytes())
    for batch in batches:
        calibrator.collect_data(_Reader(batch))
    ranges = calibrator.compute_data()
    graph.unlink()
    augmented.unlink()
    # Rounded, so that the last bits of a CPU's float arithmetic do not make another model.
    return TensorsData(
        CalibrationMethod.MinMax,
        {name: tuple(_round(v) for v in data.range_value) for name, data in ranges.items()},
    )


def _round(value: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - a NumPy scalar or array of one
    return np.array(f"{np.asarray(value).item():.{RANGE_DIGITS - 1}e}", dtype=np.float32)


def _keep_outputs_float(graph: onnx.GraphProto) -> None:
    """Take the last quantize/dequantize pair off each output.

    A quantized score has 256 levels, and what the percentile clips first is the best score.
    """
    producers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = producers.get(output.name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        quantize_node = producers[dequantize.input[0]]
        source = quantize_node.input[0]
        graph.node.remove(dequantize)
        graph.node.remove(quantize_node)
        for node in graph.node:
            node.input[:] = [output.name if n == source else n for n in node.input]
            node.output[:] = [output.name if n == source else n for n in node.output]
