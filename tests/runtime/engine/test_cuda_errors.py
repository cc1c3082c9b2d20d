"""Errors of a GPU are told apart by texts that ONNX Runtime has been seen to write."""

from __future__ import annotations

import pytest

from inference_runtime.engine.cuda_errors import error_class
from inference_runtime.errors import KernelFaultError, OutOfMemoryError, RetryableError

PREFIX = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' "
ARENA = (
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::Alloc"
)
CALL = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<...> onnxruntime::CudaCall"


def cuda(library: str, number: int, text: str, expression: str = "cudaMalloc((void**)&p, size)") -> str:
    return f"{PREFIX}{CALL} {library} failure {number}: {text} ; GPU=0 ; hostname=h ; file=f.cc ; expr={expression};"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # github.com/microsoft/onnxruntime, issues 20038, 22702
        (f"{PREFIX}{ARENA}(...) Failed to allocate memory for requested buffer of size 2830172160", OutOfMemoryError),
        (f"{PREFIX}{ARENA}(...) Available memory of 0 is smaller than requested bytes of 2560", OutOfMemoryError),
        (f"{PREFIX}{ARENA}(...) Failed to find a free memory block despite calling Extend.", OutOfMemoryError),
        (cuda("CUDA", 2, "out of memory"), OutOfMemoryError),
        (cuda("CUBLAS", 3, "CUBLAS_STATUS_ALLOC_FAILED", "cublasCreate(&cublas_handle_)"), OutOfMemoryError),
        (cuda("CUDNN", 4, "CUDNN_STATUS_ALLOC_FAILED"), OutOfMemoryError),
        (cuda("CUDNN", 5003, "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), OutOfMemoryError),
        ("std::bad_alloc", OutOfMemoryError),
        (cuda("CUDA", 700, "an illegal memory access was encountered", "cudaStreamSynchronize(s)"), KernelFaultError),
        (cuda("CUDA", 719, "unspecified launch failure"), KernelFaultError),
        (cuda("CUBLAS", 13, "CUBLAS_STATUS_EXECUTION_FAILED"), KernelFaultError),
        (cuda("CUDNN", 8, "CUDNN_STATUS_EXECUTION_FAILED"), KernelFaultError),
        (cuda("CUDNN", 4, "CUDNN_STATUS_INTERNAL_ERROR"), KernelFaultError),
        (cuda("CUFFT", 6, "CUFFT_EXEC_FAILED"), KernelFaultError),
        (cuda("CUDA", 214, "uncorrectable ECC error encountered"), RetryableError),
        (cuda("CUDA", 46, "all CUDA-capable devices are busy or unavailable"), RetryableError),
        (cuda("CUDA", 999, "unknown error"), RetryableError),
        (cuda("CUDA", 35, "CUDA driver version is insufficient for CUDA runtime version"), None),
        (cuda("CUDA", 1, "invalid argument"), None),
        (cuda("CUDA", 7000, "no such number"), None),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x", None),
        ("indices element out of data bounds, idx=700 must be within the inclusive range [-2,1]", None),
    ],
)
def test_trouble(text: str, kind: type[Exception] | None) -> None:
    assert error_class(RuntimeError(text)) is kind
