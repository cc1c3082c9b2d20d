"""Opens the model: on the GPU where the function has one, else on the CPU."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import onnxruntime as ort

from inference_runtime.stage import required

MB_PER_VCPU = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html

_GIB = 1024**3
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_NO_DEVICE = "CUDA failure 100:"  # cudaErrorNoDevice

_log = logging.getLogger(__name__)


def open_session() -> tuple[ort.InferenceSession, str]:
    """Return a session of the function's model, and where it runs: `cpu` or `gpu`.

    A function for GPUs (`ACCELERATOR=cuda`) on a machine without one runs on the CPU, and says so in the log. Where
    there is a GPU that has no memory left or is broken, it does not: that passes, and running on the CPU would stay.

    Raises
    ------
    OutOfMemoryError
        If the model does not fit the GPU.
    RetryableError, KernelFaultError
        If the GPU is broken.
    """
    if os.environ.get("ACCELERATOR") != "cuda":
        return _session([_CPU]), "cpu"
    if _CUDA not in ort.get_available_providers():
        return _session_without_gpu("this build of ONNX Runtime has no CUDA provider")
    # From the nvidia-* packages, which are on no library path.
    ort.preload_dlls()
    try:
        session = _session([(_CUDA, _cuda_options()), _CPU])
    except Exception as error:
        from inference_runtime.card import trouble  # noqa: PLC0415 - not for functions without a GPU

        if (kind := trouble(error)) is not None and _NO_DEVICE not in str(error):
            raise kind(str(error)) from error
        return _session_without_gpu(str(error))
    # ONNX Runtime goes on without a provider whose library does not load, such as for want of cuDNN.
    if _CUDA not in session.get_providers():
        return _session_without_gpu("the CUDA provider did not load, see ONNX Runtime's error above")
    return session, "gpu"


def _session_without_gpu(reason: str) -> tuple[ort.InferenceSession, str]:
    _log.warning("no GPU: the model runs on the CPU, because %s", reason)
    return _session([_CPU]), "cpu"


def _session(providers: list[Any]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # A container on another service than Lambda has the machine for itself.
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0"))
    cpus = os.cpu_count() or 1
    options.intra_op_num_threads = max(1, min(round(memory / MB_PER_VCPU), cpus)) if memory else cpus
    path = Path(required("LAMBDA_TASK_ROOT"), "model", "model.onnx")
    # Without ONNX Runtime's own fallback, which would go on with another provider in the middle of a batch, and prints.
    return ort.InferenceSession(path, options, providers=providers, enable_fallback=0)


def _cuda_options() -> dict[str, str]:
    """Return options of the provider (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html)."""
    options = {
        # As much as is asked for, not the next power of two: up to half of the card would lie idle.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every algorithm out for every new size of batch, which takes seconds each; ours vary.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if memory := os.environ.get("ACCELERATOR_MEMORY_GIB"):
        # The arena's share: CUDA's own context, cuDNN and cuBLAS take some hundred MiB beside it.
        options["gpu_mem_limit"] = str((int(memory) - 1) * _GIB)
    return options
