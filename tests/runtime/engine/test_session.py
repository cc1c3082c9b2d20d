"""The model opens on the GPU where there is one, on the CPU otherwise, and always says where.

There is no GPU here: a session that claims to have one stands in for what needs it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests.runtime.arrays import ArrayStore, infer
from tests.waiting import PATIENCE

from inference_runtime.engine.engine import LocalEngine
from inference_runtime.engine.onnxruntime_package import open_package_session
from inference_runtime.engine.open_session import open_session
from inference_runtime.engine.session import Threads
from inference_runtime.errors import OutOfMemoryError, RetryableError, StageError
from inference_runtime.tensors.tensor import zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

SOURCES = Path(__file__).parents[3] / "lambda_src"
CUDA = "CUDAExecutionProvider"


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environment of a GPU function, whose model negates `x` and counts its batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["y"]),
            helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
            helper.make_node("Expand", ["size", "size"], ["count"]),
        ],
        "negative",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch"]),
        ],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "3538")
    monkeypatch.setenv("ACCELERATOR", "cuda")
    monkeypatch.delenv("MAX_BATCH", raising=False)
    monkeypatch.delenv("ACCELERATOR_MEMORY_GIB", raising=False)
    return tmp_path


class Gpu(ort.InferenceSession):
    """A session on the CPU that says it is on a GPU, or fails as one would."""

    opened: tuple[Any, ...] = ()
    failure = ""

    def __init__(self, path: Any, options: Any, providers: Any, **more: Any) -> None:
        Gpu.opened = (*Gpu.opened, providers)
        on_gpu = isinstance(providers[0], tuple)
        if on_gpu and Gpu.failure:
            raise RuntimeError(Gpu.failure)
        super().__init__(path, options, providers=["CPUExecutionProvider"], **more)
        self._says = [CUDA] if on_gpu else []

    def get_providers(self) -> list[str]:
        return self._says + super().get_providers()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[Gpu]:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Gpu)
    monkeypatch.setattr(Gpu, "opened", ())
    return Gpu


def runs(engine: LocalEngine, count: int) -> list[int]:
    x = np.arange(count, dtype=np.float32)[:, None]
    outputs = infer(engine, {"x": x})
    np.testing.assert_array_equal(outputs["y"], -x)
    return sorted(set(outputs["count"].tolist()))


def test_a_cpu_function_asks_nothing_about_gpus(
    function: Path, gpu: type[Gpu], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("ACCELERATOR")
    monkeypatch.setenv("INFERENCE_ENGINE", "python")
    engine = LocalEngine()
    assert engine.inference == "cpu"
    assert gpu.opened == (["CPUExecutionProvider"],)
    assert runs(engine, 40) == [8, 16]
    assert not caplog.records


def test_without_a_gpu_the_function_says_so(function: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = LocalEngine()
    assert engine.inference == "cpu"
    assert runs(engine, 40) == [8, 16]
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (
        "no GPU: the model runs on the CPU, because this build of ONNX Runtime has no CUDA provider"
    )


def test_a_provider_that_onnx_runtime_leaves_out_is_noticed(
    function: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does when a library of CUDA's is missing: it only warns. Here the whole provider is missing."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    with pytest.warns(UserWarning, match="not in available provider names"):
        assert open_session()[1] == "cpu"
    assert "the CUDA provider did not load" in caplog.text


@pytest.mark.parametrize(
    "failure",
    [
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1",
        "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1",
        "libcuda.so.1: cannot open shared object file",
    ],
)
def test_without_driver_or_device_the_cpu_takes_over(
    function: Path, gpu: type[Gpu], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    monkeypatch.setattr(gpu, "failure", failure)
    assert runs(LocalEngine(), 3) == [3]
    [line] = caplog.records
    assert failure in line.getMessage()


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0", RetryableError),
    ],
)
def test_a_gpu_that_cannot_be_used_now_is_an_error(
    function: Path, gpu: type[Gpu], monkeypatch: pytest.MonkeyPatch, failure: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(gpu, "failure", failure)
    with pytest.raises(kind, match=failure):
        open_session()
    assert len(gpu.opened) == 1


@pytest.mark.parametrize(("memory", "limit"), [("24", 23 * 2**30), ("3", 2 * 2**30), (None, None)])
def test_on_a_gpu(
    function: Path,
    gpu: type[Gpu],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    memory: str | None,
    limit: int | None,
) -> None:
    if memory is not None:
        monkeypatch.setenv("ACCELERATOR_MEMORY_GIB", memory)
    engine = LocalEngine()
    assert engine.inference == "gpu"
    assert not engine.session.session._enable_fallback
    options = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    if limit is not None:
        options["gpu_mem_limit"] = str(limit)
    assert gpu.opened == ([(CUDA, options), "CPUExecutionProvider"],)
    assert runs(engine, 5000) == [5000]
    assert not caplog.records


def test_a_model_whose_items_depend_on_each_other_runs_one_at_a_time_on_a_gpu_too(
    function: Path, gpu: type[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BATCH", "1")
    assert runs(LocalEngine(), 5) == [1]


@pytest.mark.parametrize("text", ["-1", "many", "1.5", " 2", "\u0664"])
def test_a_largest_batch_that_is_none_fails(
    function: Path, gpu: type[Gpu], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("MAX_BATCH", text)
    with pytest.raises(StageError, match=r"MAX_BATCH is .+, expected a whole number"):
        LocalEngine()


def test_a_closed_session_of_the_package_fails(function: Path) -> None:
    session, _ = open_package_session(str(function / "model" / "model.onnx"), Threads(1, spin=False))
    session.close()
    session.close()
    with pytest.raises(StageError, match="the model is closed"):
        session.run({"x": zeros("float32", [1, 1])})


ENDING = """
import sys, time
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.tensors.tensor import zeros

engine = LocalEngine()
def run(*_):
    raise RuntimeError(sys.argv[1])
engine.session.run = run
for _ in range(2):
    try:
        engine.infer({"x": zeros("float32", (2, 1))})
    except Exception as error:
        print(type(error).__name__, str(error), flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("number", "name"), [(700, "KernelFaultError CUDA"), (46, "RetryableError RetryableError: CUDA")]
)
def test_a_process_whose_gpu_failed_answers_and_ends(function: Path, number: int, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, f"CUDA failure {number}: it is broken ; GPU=0"],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{name} failure {number}: it is broken")
    assert second.startswith("RetryableError")
    assert "the GPU failed, this process ends" in done.stderr


def test_the_row_will_say_where(
    function: Path, environment: pytest.MonkeyPatch, bucket: str, s3: S3Client, load: Callable[[str], Any]
) -> None:
    handler, store = load("infer"), ArrayStore(s3, bucket)
    event = store.dump_groups({}, [([0], {"x": np.ones((1, 1), np.float32)})], "inputs", 9999)
    assert handler(event)["inference"] == "cpu"


def test_one_process_for_all_where_several_serve(
    function: Path, environment: pytest.MonkeyPatch, bucket: str, s3: S3Client, load: Callable[[str], Any]
) -> None:
    environment.setenv("GPU_CONCURRENCY", "1")
    environment.setenv("CONFIDENCE", "1")
    environment.syspath_prepend(str(SOURCES))
    handler, store = load("infer"), ArrayStore(s3, bucket)
    event = store.dump_groups({}, [([5, 3], {"x": np.array([[1], [2]], np.float32)})], "inputs", 9999)
    response = handler(event)
    [group] = response["groups"]
    assert store.load(group["outputs"]["y"]).tolist() == [[-1], [-2]]
    assert response["inference"] == "cpu"
    assert response["confidences"] == [{"index": 5, "confidence": 1.0}, {"index": 3, "confidence": 1.0}]
    assert type(sys.modules["inference_runtime.handlers.infer"].engine).__name__ == "ModelClient"
