"""A random forest of scikit-learn, trained on its digits."""

from __future__ import annotations

import numpy as np
import onnx
from case import Case, Run, batches
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="trees (trained here)",
    package="scikit-learn",
    file="",
    license="BSD-3-Clause",
    inputs=(TensorSpec("x", "float32", ("batch", 64)),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 10)),),
    seen="digits",
    bound=1.0,
    metric="top1_agreement",
)


def make() -> onnx.ModelProto:
    from skl2onnx import to_onnx

    x, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(60, max_depth=12, random_state=0).fit(x[:900].astype(np.float32), y[:900])
    return to_onnx(forest, x[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.input[:] = ["x" if name == "X" else name for name in node.input]
    model.graph.input[0].name = "x"
    return model


def digits(start: int, stop: int) -> list[dict[str, np.ndarray]]:
    return [{"x": row.astype(np.float32)} for row in load_digits().data[start:stop]]


def calibration():
    return batches(digits(900, 1000), 20)


def evaluation():
    return batches(digits(1000, 1300), 20)


def use(run: Run) -> list[int]:
    return [int(run(batch)["probabilities"].argmax()) for batch in batches(digits(1300, 1797), 1)]
