"""The inference function: real models, every batch size, and inputs that do not belong to them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.arrays import ArrayStore

from inference_runtime.errors import RetryableError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


@pytest.fixture
def module(
    environment: pytest.MonkeyPatch, bucket: str, tmp_path: Path, load: Callable[[str], Any]
) -> Callable[..., Any]:
    """Return the inference module around a model that doubles `x`, and counts its batch in `count`."""

    def module(batch: str | int = "batch", dtype: str = "float32", memory: str = "1769") -> Any:
        kind = TYPES[dtype]
        nodes = [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
            helper.make_node("Expand", ["size", "size"], ["count"]),
        ]
        graph = helper.make_graph(
            nodes,
            "twice",
            [helper.make_tensor_value_info("x", kind, [batch, 2])],
            [
                helper.make_tensor_value_info("same", kind, [batch, 2]),
                helper.make_tensor_value_info("count", TensorProto.INT64, [batch]),
            ],
        )
        save(graph, tmp_path)
        environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
        environment.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
        environment.setenv("MODEL_VERSION", "abc123")
        return load("infer")

    return module


def save(graph: onnx.GraphProto, folder: Path) -> None:
    (folder / "model").mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model" / "model.onnx")


def run(handler: Any, store: ArrayStore, groups: list[tuple[list[int], dict[str, np.ndarray]]]) -> dict[str, Any]:
    event = json.loads(json.dumps(store.dump_groups({}, groups, "inputs", 180_000)))
    return json.loads(json.dumps(handler(event)))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33])
def test_a_free_batch_is_run_in_parts_of_at_most_16(module: Any, s3: S3Client, bucket: str, count: int) -> None:
    store, x = ArrayStore(s3, bucket), np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    response = run(module(), store, [(list(range(count)), {"x": x})])
    assert response["model_version"] == "abc123"
    assert response["inference"] == "cpu"
    [group] = response["groups"]
    assert group["indices"] == list(range(count))
    np.testing.assert_array_equal(store.load(group["outputs"]["same"]), x)
    sizes = store.load(group["outputs"]["count"]).tolist()
    assert sizes == [16] * (count // 16 * 16) + [count % 16] * (count % 16)


def test_a_model_whose_items_depend_on_each_other_gets_one_at_a_time(
    module: Any, s3: S3Client, bucket: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("MAX_BATCH", "1")
    store, x = ArrayStore(s3, bucket), np.arange(6, dtype=np.float32).reshape(3, 2)
    [group] = run(module(), store, [([0, 1, 2], {"x": x})])["groups"]
    np.testing.assert_array_equal(store.load(group["outputs"]["same"]), x)
    assert store.load(group["outputs"]["count"]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_a_fixed_batch_is_filled_up(module: Any, s3: S3Client, bucket: str, count: int) -> None:
    store, x = ArrayStore(s3, bucket), np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    [group] = run(module(batch=4), store, [(list(range(count)), {"x": x})])["groups"]
    np.testing.assert_array_equal(store.load(group["outputs"]["same"]), x)
    assert store.load(group["outputs"]["count"]).tolist() == [4] * count


@pytest.mark.parametrize("dtype", TYPES)
def test_types(module: Any, s3: S3Client, bucket: str, dtype: str) -> None:
    store, x = ArrayStore(s3, bucket), np.array([[0, 1], [1, 0], [1, 1]], dtype)
    [group] = run(module(dtype=dtype), store, [([0, 1, 2], {"x": x})])["groups"]
    same = store.load(group["outputs"]["same"])
    assert same.dtype == dtype
    np.testing.assert_array_equal(same, x)


def test_groups_stay_apart_and_none_are_fine(module: Any, s3: S3Client, bucket: str) -> None:
    store, handler = ArrayStore(s3, bucket), module()
    assert run(handler, store, [])["groups"] == []
    groups = [([4, 0], {"x": np.ones((2, 2), np.float32)}), ([7], {"x": np.zeros((1, 2), np.float32)})]
    response = run(handler, store, groups)
    assert [group["indices"] for group in response["groups"]] == [[4, 0], [7]]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"y": np.zeros((1, 2), np.float32)}, "inputs are {'y': 'float32'}, the model expects {'x': 'float32'}"),
        ({"x": np.zeros((1, 2), np.int64)}, "inputs are {'x': 'int64'}, the model expects {'x': 'float32'}"),
        (
            {"x": np.zeros((1, 2), np.float32), "y": np.zeros((1, 2), np.float32)},
            "inputs are {'x': 'float32', 'y': 'float32'}",
        ),
    ],
)
def test_inputs_of_another_model_fail(module: Any, s3: S3Client, bucket: str, inputs: Any, says: str) -> None:
    with pytest.raises(StageError, match=says):
        run(module(), ArrayStore(s3, bucket), [([0], inputs)])


def test_an_output_without_batch_fails(
    environment: pytest.MonkeyPatch, bucket: str, s3: S3Client, tmp_path: Path, load: Any
) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
    )
    save(graph, tmp_path)
    environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    environment.setenv("MODEL_VERSION", "abc123")
    with pytest.raises(StageError, match=r"model output 'sum' has shape \(\), expected a batch of 3"):
        run(load("infer"), ArrayStore(s3, bucket), [([0, 1, 2], {"x": np.zeros((3, 2), np.float32)})])


def test_large_outputs_leave_room_for_the_items(module: Any, s3: S3Client, bucket: str) -> None:
    store, count = ArrayStore(s3, bucket), 7000
    x = np.random.default_rng(0).random((count, 2), np.float32)
    response = run(module(), store, [(list(range(count)), {"x": x})])
    assert len(json.dumps(response)) <= 80_000
    [group] = response["groups"]
    np.testing.assert_array_equal(store.load(group["outputs"]["same"]), x)


@pytest.mark.parametrize("engine", ["c_api", "python"])
@pytest.mark.parametrize(("memory", "vcpus"), [("128", 1), ("1769", 1), ("3538", 2), ("10240", 6)])
def test_threads_follow_the_memory(
    module: Any, environment: pytest.MonkeyPatch, engine: str, memory: str, vcpus: int
) -> None:
    environment.setenv("INFERENCE_ENGINE", engine)
    environment.setattr(os, "cpu_count", lambda: 6)
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    module(memory=memory)
    assert len(set(tasks.iterdir()) - before) == vcpus - 1  # the caller computes, too


def test_only_the_wanted_items_are_run(module: Any, s3: S3Client, bucket: str) -> None:
    store, handler = ArrayStore(s3, bucket), module()
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    event = store.dump_groups({}, [([4, 0, 2], {"x": x[:3]}), ([1, 3], {"x": x[3:]})], "inputs", 180_000)
    response = handler({**event, "only": [2, 4, 17]})
    [group] = response["groups"]
    assert group["indices"] == [4, 2]
    np.testing.assert_array_equal(store.load(group["outputs"]["same"]), x[[0, 2]])
    assert store.load(group["outputs"]["count"]).tolist() == [2, 2]
    assert handler({**event, "only": []})["groups"] == []
    assert [group["indices"] for group in handler({**event, "only": None})["groups"]] == [[4, 0, 2], [1, 3]]
    assert "confidences" not in response


def test_what_is_not_wanted_is_not_read(module: Any, s3: S3Client, bucket: str) -> None:
    gone = {"dtype": "float32", "shape": [1, 2], "bucket": bucket, "key": "tensors/gone"}
    wanted = {"dtype": "float32", "shape": [1, 2], "data": "AAAAAAAAAAA="}
    event = {"groups": [{"indices": [0], "inputs": {"x": gone}}, {"indices": [1], "inputs": {"x": wanted}}]}
    handler = module()
    assert [group["indices"] for group in handler({**event, "only": [1]})["groups"]] == [[1]]
    with pytest.raises(RetryableError, match="NoSuchKey"):
        handler(event)


@pytest.mark.parametrize(
    "wrong",
    [{"shape": [2, 1], "data": "AAAAAAAAAAA="}, {"shape": [0, 2], "data": ""}, {"shape": [10**9, 0], "data": ""}],
)
def test_another_number_of_items_than_of_indices_fails(module: Any, wrong: dict[str, Any]) -> None:
    handler = module()
    for only in (None, [0], [0, 1]):
        event = {"groups": [{"indices": [1], "inputs": {"x": {"dtype": "float32", **wrong}}}], "only": only}
        if only == [0]:
            assert handler(event)["groups"] == []
            continue
        with pytest.raises(StageError, match=r"input 'x' is a Tensor\(float32 \[.+, and the group has 1 indices"):
            handler(event)


def test_confidences(module: Any, s3: S3Client, bucket: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CONFIDENCE", "1")
    handler, store = module(), ArrayStore(s3, bucket)
    groups = [([3, 0], {"x": np.array([[0, 3], [2, 2]], np.float32)}), ([7], {"x": np.array([[9, 0]], np.float32)})]
    response = run(handler, store, groups)
    assert response["confidences"] == [
        {"index": 3, "confidence": 0.952574},
        {"index": 0, "confidence": 0.5},
        {"index": 7, "confidence": 0.999877},
    ]
    assert handler({**store.dump_groups({}, groups, "inputs", 180_000), "only": [7]})["confidences"] == [
        {"index": 7, "confidence": 0.999877}
    ]
