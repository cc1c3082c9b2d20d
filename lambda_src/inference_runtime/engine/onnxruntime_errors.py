"""Errors of ONNX Runtime's C API, with the names and strings of its Python package."""

from __future__ import annotations


class OnnxRuntimeError(Exception):
    """ONNX Runtime refuses to do something, or fails at it."""


class Fail(OnnxRuntimeError):  # noqa: N818 - these are the package's names, by which logs and workflows know them
    """Any error without a more precise name."""


class InvalidArgument(OnnxRuntimeError):  # noqa: N818
    """The inputs are not the model's."""


class NoSuchFile(OnnxRuntimeError):  # noqa: N818
    """There is no model."""


class NoModel(OnnxRuntimeError):  # noqa: N818
    """No model is loaded."""


class EngineError(OnnxRuntimeError):
    """The engine failed."""


class RuntimeException(OnnxRuntimeError):  # noqa: N818
    """A computation failed, or the memory did not suffice."""


class InvalidProtobuf(OnnxRuntimeError):  # noqa: N818
    """The model is not an ONNX file, or damaged."""


class ModelLoaded(OnnxRuntimeError):  # noqa: N818
    """A model is loaded already."""


class NotImplemented(OnnxRuntimeError):  # noqa: N818
    """There is no implementation of an operator for these types."""


class InvalidGraph(OnnxRuntimeError):  # noqa: N818
    """The model contradicts itself."""


class EPFail(OnnxRuntimeError):  # noqa: N818
    """An execution provider failed."""


class ModelLoadCanceled(OnnxRuntimeError):  # noqa: N818
    """Loading was cancelled."""


class ModelRequiresCompilation(OnnxRuntimeError):  # noqa: N818
    """The model must be compiled before."""


class NotFound(OnnxRuntimeError):  # noqa: N818
    """Something that was asked for is not there."""


# OrtErrorCode, and its name in strings (onnxruntime/core/common/status.cc).
_KINDS: dict[int, tuple[type[OnnxRuntimeError], str]] = {
    1: (Fail, "FAIL"),
    2: (InvalidArgument, "INVALID_ARGUMENT"),
    3: (NoSuchFile, "NO_SUCHFILE"),
    4: (NoModel, "NO_MODEL"),
    5: (EngineError, "ENGINE_ERROR"),
    6: (RuntimeException, "RUNTIME_EXCEPTION"),
    7: (InvalidProtobuf, "INVALID_PROTOBUF"),
    8: (ModelLoaded, "MODEL_LOADED"),
    9: (NotImplemented, "NOT_IMPLEMENTED"),
    10: (InvalidGraph, "INVALID_GRAPH"),
    11: (EPFail, "EP_FAIL"),
    12: (ModelLoadCanceled, "MODEL_LOAD_CANCELED"),
    13: (ModelRequiresCompilation, "MODEL_REQUIRES_COMPILATION"),
    14: (NotFound, "NOT_FOUND"),
}


def error_of(code: int, message: str) -> OnnxRuntimeError:
    """Return the error for a status of ONNX Runtime's."""
    kind, name = _KINDS.get(code, (OnnxRuntimeError, "GENERAL ERROR"))
    return kind(f"[ONNXRuntimeError] : {code} : {name} : {message}")
