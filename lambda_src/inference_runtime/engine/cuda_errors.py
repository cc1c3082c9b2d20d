"""Classifies errors of a GPU by the strings of ONNX Runtime: it has no exceptions for these."""

from __future__ import annotations

import re

from inference_runtime.errors import KernelFaultError, OutOfMemoryError, RetryableError

# An arena that cannot grow says one of the first three (onnxruntime/core/framework/bfc_arena.cc). A failed call of CUDA
# says its number and text, and one of cuBLAS, cuDNN or cuFFT its status (onnxruntime/core/providers/cuda/cuda_call.cc).
# Status names: the libraries' own references. std::bad_alloc is memory of the host.
_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer"
    r"|is smaller than requested bytes"
    r"|Failed to find a free memory block"
    r"|CUDA failure 2\b"
    r"|_ALLOC(ATION)?_FAILED\b"
    r"|\bbad_alloc\b|\bbad allocation\b"
)

# cudaError_t, https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html: after an illegal address, a
# launch that failed and their like "the process must be terminated and relaunched". An item may be the cause.
_KERNEL_FAULTS = frozenset({700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
# No item is the cause of these: no device, or another driver; memory or links that are broken; an unknown error.
_CARD_FAULTS = frozenset({46, 100, 101, 214, 220, 221, 721, 802, 803, 999})
_CUDA = re.compile(r"CUDA failure (\d+)\b")
# Texts of the libraries for a kernel that failed.
_LIBRARY_FAULT = re.compile(r"CU(BLAS|DNN|FFT)_(STATUS_)?(EXEC(UTION)?_FAILED|INTERNAL_ERROR|MAPPING_ERROR)")


def error_class(error: BaseException) -> type[Exception] | None:
    """Return which of the runtime's errors an exception of ONNX Runtime stands for, None if for none of these.

    A session survives `OutOfMemoryError`. `KernelFaultError` is a computation that failed, and `RetryableError` a
    card that did: either way this process cannot use the card any more.
    """
    text = str(error)
    if _MEMORY.search(text):
        return OutOfMemoryError
    found = _CUDA.search(text)
    number = int(found[1]) if found else None
    if number in _CARD_FAULTS or type(error).__name__ == "DeviceReset":
        return RetryableError
    if number in _KERNEL_FAULTS or _LIBRARY_FAULT.search(text):
        return KernelFaultError
    return None
