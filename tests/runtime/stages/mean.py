"""A function around a model of the mean of some numbers, with user code that does what objects say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USER_CODE = """
    import json
    import numpy as np
    from inference_runtime import RejectItem

    def preprocess(data, item):
        order, _, rest = data.partition(b" ")
        if order == b"refuse":
            raise RejectItem("as it was told")
        if order == b"raise":
            raise RuntimeError("as it was told")
        if order == b"text":
            return np.array(["a", "b"])
        if order == b"zeros":
            return np.zeros(int(rest), np.float32)
        return np.array(json.loads(data), np.float32)

    def postprocess(outputs, item):
        mean = outputs["mean"]
        if mean < 0:
            raise RejectItem("the mean is negative")
        if mean > 1e6:
            raise RuntimeError("the mean is large")
        return {"mean": mean, "key": item.key, "infinite": np.inf if mean > 1000 else None}
"""


@pytest.fixture
def code(
    stage: Callable[[str], str], environment: pytest.MonkeyPatch, bucket: str, table: str, tmp_path: Path
) -> Callable[[str], None]:
    """A function around a model of the mean of any number of numbers, and user code of one file for both stages."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    environment.setenv("MODEL_INPUTS", json.dumps([{"name": "x", "dtype": "float32", "shape": ["batch", "n"]}]))

    def code(text: str) -> None:
        name = stage(text)
        environment.delenv("STAGE_FUNCTION")
        environment.setenv("PREPROCESS_FUNCTION", f"{name}:preprocess")
        environment.setenv("POSTPROCESS_FUNCTION", f"{name}:postprocess")

    code(USER_CODE)
    return code
