"""A function around a model of the mean of some numbers, with user code that does what objects say."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

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

BODIES = {
    "good": b"[1, 2, 3]",
    "also good": b"[4, 5, 6]",
    "of another shape": b"[7, 8]",
    "refused before": b"refuse",
    "refused after": b"[-1, -2]",
    "a bug before": b"raise",
    "a bug after": b"[1e7, 1e7]",
    "a bug of types": b"text",
    "not a number": b"[NaN, 1]",
    "infinite mean": b"[3e38, 3e38]",
    "infinite prediction": b"[5000]",
    "no rank": b"1",
    "empty": b"",
}
"""Objects that end in every way, by what they are."""


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


@pytest.fixture
def score(code: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any]) -> Callable[..., dict[str, Any]]:
    """The handler, which takes messages and what else is in the event."""
    with environment.context() as without:
        without.delenv("WORK_BUCKET")
        handler = load("fused")
    return lambda messages, context=None, **more: json.loads(
        json.dumps(handler({"messages": messages, **more}, context))
    )


@pytest.fixture
def staged(code: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any]) -> Callable[..., list[str]]:
    """The three handlers as the workflow calls them, into a separate table; returns what is to be retried."""
    handlers = {}
    for name in ("PREPROCESS", "POSTPROCESS"):
        environment.setenv("STAGE_FUNCTION", os.environ[f"{name}_FUNCTION"])
        handlers[name] = load(name.lower())
    environment.delenv("STAGE_FUNCTION")
    infer = load("infer")

    def run(messages: list[Any], **more: Any) -> list[dict[str, str]]:
        prepared = handlers["PREPROCESS"]({"messages": messages})
        nothing = {"groups": [], "inference": "none", "model_version": "m1"}
        answer = infer({"groups": prepared["groups"]}) if prepared["groups"] else nothing
        kept = {name: prepared[name] for name in ("items", "rejected")}
        done = handlers["POSTPROCESS"]({**answer, **kept, **more})
        assert prepared["unfinished"] == prepared["retry"] == done["retry"] == []
        return prepared["failed"] + done["failures"]

    return run
