"""Sessions of the `onnxruntime` Python package: on GPUs, and on CPUs where the C API is not wanted."""

from __future__ import annotations

import logging
import os
from math import inf
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from inference_runtime.engine.session import TensorInfo
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import Tensor, arrays_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.engine.session import Threads

_GIB = 1024**3
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_NO_DEVICE = "CUDA failure 100:"  # cudaErrorNoDevice

_TYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names are not numpy's

_log = logging.getLogger(__name__)


class PackageSession:
    """A session of the package; see `interfaces.Session`.

    Parameters
    ----------
    session
        The package's own.

    Attributes
    ----------
    session
        The package's own; None when it is closed.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.deadline = inf
        self.inputs = [_info(value) for value in session.get_inputs()]
        self.outputs = [_info(value) for value in session.get_outputs()]
        self._names = [value.name for value in self.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the model's outputs in order.

        Raises
        ------
        StageError
            If an output is not a tensor, or the session is closed.
        Exception
            With ONNX Runtime's own message, if it fails.
        """
        if (session := self.session) is None:
            raise StageError("the model is closed")
        outputs = session.run(self._names, arrays_of(inputs))
        for name, output in zip(self._names, outputs, strict=True):
            if not hasattr(output, "dtype"):
                raise StageError(f"model output {name!r} is a {type(output).__name__}, expected a tensor")
        return [Tensor.of(output) for output in outputs]

    def close(self) -> None:
        """Give the memory back, as soon as no thread runs the model any more."""
        self.session = None


def open_package_session(path: str, threads: Threads) -> tuple[PackageSession, str]:
    """Return a session of a model, and where it runs: `cpu` or `gpu`.

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
        return _session(path, threads, [_CPU]), "cpu"
    if _CUDA not in ort.get_available_providers():
        return _session_without_gpu(path, threads, "this build of ONNX Runtime has no CUDA provider")
    # From the nvidia-* packages, which are on no library path.
    ort.preload_dlls()
    try:
        session = _session(path, threads, [(_CUDA, _cuda_options()), _CPU])
    except Exception as error:
        from inference_runtime.engine.cuda_errors import error_class  # noqa: PLC0415 - not for functions without a GPU

        if (kind := error_class(error)) is not None and _NO_DEVICE not in str(error):
            raise kind(str(error)) from error
        return _session_without_gpu(path, threads, str(error))
    # ONNX Runtime goes on without a provider whose library does not load, such as for want of cuDNN.
    if _CUDA not in session.session.get_providers():
        return _session_without_gpu(path, threads, "the CUDA provider did not load, see ONNX Runtime's error above")
    return session, "gpu"


def _session_without_gpu(path: str, threads: Threads, reason: str) -> tuple[PackageSession, str]:
    _log.warning("no GPU: the model runs on the CPU, because %s", reason)
    return _session(path, threads, [_CPU]), "cpu"


def _session(path: str, threads: Threads, providers: list[Any]) -> PackageSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.count
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads.spin else "0")
    # Without ONNX Runtime's own fallback, which would go on with another provider in the middle of a batch, and prints.
    return PackageSession(ort.InferenceSession(path, options, providers=providers, enable_fallback=0))


def _info(value: ort.NodeArg) -> TensorInfo:
    kind = value.type
    if kind.startswith("tensor("):
        kind = kind.removeprefix("tensor(").removesuffix(")")
    return TensorInfo(value.name, _TYPES.get(kind, kind), tuple(value.shape))


def _cuda_options() -> dict[str, str]:
    """Return options of the provider (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html)."""
    options = {
        # As much as is asked for, not the next power of two: up to half of the card would lie idle.
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every algorithm out for every new size of batch, which takes seconds each; ours vary.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if memory := os.environ.get("ACCELERATOR_MEMORY_GIB"):
        # The arena's share: CUDA's own context, cuDNN and cuBLAS take some hundred MiB next to it.
        options["gpu_mem_limit"] = str((int(memory) - 1) * _GIB)
    return options
