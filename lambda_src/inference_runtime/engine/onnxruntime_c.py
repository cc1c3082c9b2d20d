"""Sessions of ONNX Runtime's C API: the shared library alone, without the package's Python modules and without numpy.

Functions stand in a table of pointers, whose order never changes; new ones are added at its end. Numbers and signatures
here are those of include/onnxruntime/core/session/onnxruntime_c_api.h.
"""

from __future__ import annotations

import os
import sys
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    PYFUNCTYPE,
    Structure,
    addressof,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_uint32,
    c_void_p,
    cast,
    create_string_buffer,
    memmove,
    py_object,
    pythonapi,
    string_at,
)
from functools import lru_cache
from math import inf, prod
from threading import Lock

from inference_runtime.engine.session import TensorInfo
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import ITEM_SIZES, STRING, Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from inference_runtime.engine.session import Threads

API_VERSION = 24
"""Version of the table of functions: ONNX Runtime 1.24 and everything newer has it."""

LIBRARY = "libonnxruntime.so"

_WARNING = 2
_INVALID_ARGUMENT = 2
_DEVICE_ALLOCATOR = 0
_DEFAULT_MEMORY = 0

# ONNXTensorElementDataType. The types with None are not whole bytes, or none that numpy has.
_TYPES = (
    *(None, "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64"),
    *("uint32", "uint64", None, None, "bfloat16"),
)
_NUMBERS = {name: number for number, name in enumerate(_TYPES) if name}

# Place in the table, and arguments. All return a status, but what releases something.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "CreateEnv": (3, c_int, c_char_p, c_void_p),
    "CreateSession": (7, c_void_p, c_char_p, c_void_p, c_void_p),
    "Run": (9, c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p),
    "CreateSessionOptions": (10, c_void_p),
    "SetIntraOpNumThreads": (24, c_void_p, c_int),
    "SetInterOpNumThreads": (25, c_void_p, c_int),
    "SessionGetInputCount": (30, c_void_p, c_void_p),
    "SessionGetOutputCount": (31, c_void_p, c_void_p),
    "SessionGetInputTypeInfo": (33, c_void_p, c_size_t, c_void_p),
    "SessionGetOutputTypeInfo": (34, c_void_p, c_size_t, c_void_p),
    "SessionGetInputName": (36, c_void_p, c_size_t, c_void_p, c_void_p),
    "SessionGetOutputName": (37, c_void_p, c_size_t, c_void_p, c_void_p),
    "CreateTensorAsOrtValue": (48, c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "CreateTensorWithDataAsOrtValue": (49, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_int, c_void_p),
    "GetTensorMutableData": (51, c_void_p, c_void_p),
    "GetStringTensorDataLength": (53, c_void_p, c_void_p),
    "GetStringTensorContent": (54, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t),
    "CastTypeInfoToTensorInfo": (55, c_void_p, c_void_p),
    "GetTensorElementType": (60, c_void_p, c_void_p),
    "GetDimensionsCount": (61, c_void_p, c_void_p),
    "GetDimensions": (62, c_void_p, c_void_p, c_size_t),
    "GetSymbolicDimensions": (63, c_void_p, c_void_p, c_size_t),
    "CreateCpuMemoryInfo": (69, c_int, c_int, c_void_p),
    "AllocatorFree": (76, c_void_p, c_void_p),
    "GetAllocatorWithDefaultOptions": (78, c_void_p),
    "AddSessionConfigEntry": (130, c_void_p, c_char_p, c_char_p),
    "GetResizedStringTensorElementBuffer": (252, c_void_p, c_size_t, c_size_t, c_void_p),
    "GetTensorElementTypeAndShapeDataReference": (414, c_void_p, c_void_p, c_void_p, c_void_p),
}
_RELEASES = {
    "ReleaseStatus": 93,
    "ReleaseSession": 95,
    "ReleaseValue": 96,
    "ReleaseTypeInfo": 98,
    "ReleaseSessionOptions": 100,
}
_SLOT = 8  # bytes of a pointer
_ROOM = 3
_GET_ERROR_CODE, _GET_ERROR_MESSAGE = 1, 2
_LEAST_LENT = 64 * 1024  # bytes of an output; to copy fewer takes no longer than to lend them
_LONG = frozenset({"CreateEnv", "CreateSession", "Run"})


class _ApiBase(Structure):
    _fields_ = [("GetApi", CFUNCTYPE(c_void_p, c_uint32)), ("GetVersionString", CFUNCTYPE(c_char_p))]


class _PyBuffer(Structure):
    """Py_buffer (https://docs.python.org/3/c-api/buffer.html): how a read-only object says where its bytes are."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_void_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_get_buffer = pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [py_object, c_void_p, c_int]
_release_buffer = pythonapi.PyBuffer_Release
_release_buffer.argtypes = [c_void_p]
_release_buffer.restype = None


class Library:
    """The shared library, its functions, and what all sessions of a process have in common.

    Attributes
    ----------
    version
        ONNX Runtime's.

    Raises
    ------
    StageError
        If it cannot be loaded, or is none of ONNX Runtime's, or an older one.
    """

    def __init__(self, path: str) -> None:
        try:
            base = CDLL(path).OrtGetApiBase
        except (OSError, AttributeError) as error:
            raise StageError(f"cannot load ONNX Runtime's library: {error}") from error
        base.restype = POINTER(_ApiBase)
        found = base().contents
        self.version = found.GetVersionString().decode()
        table = found.GetApi(API_VERSION)
        if not table:
            raise StageError(f"{path} is ONNX Runtime {self.version}, expected 1.{API_VERSION} or newer")
        self._table = cast(table, POINTER(c_void_p))
        self._error_code = CFUNCTYPE(c_int, c_void_p)(self._table[_GET_ERROR_CODE])
        self._error_message = CFUNCTYPE(c_char_p, c_void_p)(self._table[_GET_ERROR_MESSAGE])
        self.functions = {
            # Other threads of Python go on during the long ones. To let them takes longer than any of the rest.
            name: (CFUNCTYPE if name in _LONG else PYFUNCTYPE)(c_void_p, *arguments)(self._table[place])
            for name, (place, *arguments) in _FUNCTIONS.items()
        }
        self.releases = {name: PYFUNCTYPE(None, c_void_p)(self._table[place]) for name, place in _RELEASES.items()}
        # For as long as the process lives: other threads may be in a session when the interpreter ends.
        self.environment, self.allocator = c_void_p(), c_void_p()
        self.call("CreateEnv", _WARNING, b"cdk-inference", byref(self.environment))
        self.call("GetAllocatorWithDefaultOptions", byref(self.allocator))
        memory = c_void_p()
        self.call("CreateCpuMemoryInfo", _DEVICE_ALLOCATOR, _DEFAULT_MEMORY, byref(memory))
        self._memory = memory.value
        self._create_tensor = self.functions["CreateTensorWithDataAsOrtValue"]

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the API.

        Raises
        ------
        OnnxRuntimeError
            With ONNX Runtime's own message, if it fails.
        """
        if status := self.functions[name](*arguments):
            raise self.error(status)

    def create_value(self, tensor: Tensor, address: Any, place: int) -> None:  # noqa: ANN401 - bytes, or where they are
        """Put a value of a tensor's type and shape, whose elements are at `address`, at `place`.

        Raises
        ------
        OnnxRuntimeError
            If it fails.
        """
        shape = tensor.shape
        if status := self._create_tensor(
            self._memory, address, len(tensor.data), _sizes(shape), len(shape), _NUMBERS[tensor.dtype], place
        ):
            raise self.error(status)

    def error(self, status: int) -> Exception:
        """Return the error that a status stands for, and release it."""
        from inference_runtime.engine.onnxruntime_errors import error_of  # noqa: PLC0415 - hardly ever needed

        code, message = self._error_code(status), self._error_message(status)
        self.releases["ReleaseStatus"](status)
        return error_of(code, message.decode(errors="replace"))


_library: Library | None = None
_loading = Lock()


def load_library() -> Library:
    """Return the library, which is loaded once in a process, whichever thread asks first.

    Raises
    ------
    StageError
        If there is none, more than one, or not the right one.
    """
    global _library  # noqa: PLW0603
    with _loading:
        if _library is None:
            _library = Library(_find_library())
        return _library


def _find_library() -> str:
    for entry in sys.path:
        folder = os.path.join(entry, "onnxruntime", "capi")  # noqa: PTH118 - pathlib takes milliseconds to import
        try:
            names = [name for name in os.listdir(folder) if name.startswith(LIBRARY)]  # noqa: PTH208
        except OSError:
            continue
        if len(names) > 1:
            raise StageError(f"{folder} has {', '.join(sorted(names))}, expected one of them: package the wheel afresh")
        if names:
            return os.path.join(folder, names[0])  # noqa: PTH118
    raise StageError(
        f"there is no onnxruntime/capi/{LIBRARY}.* on sys.path: package the wheel of onnxruntime for Linux with the "
        'function, or set INFERENCE_ENGINE to "python"'
    )


class Handle:
    """Releases a session when the last one who uses it is done.

    Attributes
    ----------
    value
        ONNX Runtime's pointer to it.
    """

    __slots__ = ("_library", "_process", "value")

    def __init__(self, library: Library, value: int) -> None:
        self._library = library
        self._process = os.getpid()
        self.value = value

    def __del__(self) -> None:
        # When the interpreter ends, the process gives everything back at once. A forked one has none of the threads
        # for whose end it would wait.
        if not sys.is_finalizing() and os.getpid() == self._process:
            self._library.releases["ReleaseSession"](self.value)


class Loan:
    """Gives a value of ONNX Runtime back when nothing refers to its bytes any more.

    Parameters
    ----------
    library
        The library that made it.
    session
        The session, which lives as long: its weights may be the value.
    value
        ONNX Runtime's pointer to it.
    """

    __slots__ = ("_library", "_process", "_session", "_value")

    def __init__(self, library: Library, session: Handle, value: int) -> None:
        self._library = library
        self._session = session
        self._process = os.getpid()
        self._value = value

    def __del__(self) -> None:
        # As for a session: the allocator of a forked process may have been locked by a thread that is not there.
        if not sys.is_finalizing() and os.getpid() == self._process:
            self._library.releases["ReleaseValue"](self._value)


class CSession:
    """A session on the CPU; see `interfaces.Session`. Any number of threads may run it at once.

    Parameters
    ----------
    path
        The file of the model. Files that belong to it lie next to it.
    threads
        Those that compute.

    Raises
    ------
    StageError
        If there is no library, or not the right one.
    OnnxRuntimeError
        If the model does not load.
    """

    def __init__(self, path: str, threads: Threads) -> None:
        self._library = library = load_library()
        options, session = c_void_p(), c_void_p()
        library.call("CreateSessionOptions", byref(options))
        try:
            library.call("SetIntraOpNumThreads", options, threads.count)
            library.call("SetInterOpNumThreads", options, 1)
            library.call(
                "AddSessionConfigEntry", options, b"session.intra_op.allow_spinning", b"1" if threads.spin else b"0"
            )
            library.call("CreateSession", library.environment, os.fsencode(path), options, byref(session))
        finally:
            library.releases["ReleaseSessionOptions"](options)
        self._handle: Handle | None = Handle(library, session.value or 0)
        self.deadline = inf
        # Functions that each run calls, without a look-up.
        functions, releases = library.functions, library.releases
        self._run = functions["Run"]
        self._create_value = library.create_value
        self._get_shape = functions["GetTensorElementTypeAndShapeDataReference"]
        self._get_data = functions["GetTensorMutableData"]
        self._release_value = releases["ReleaseValue"]
        self.inputs = self._values(session, "Input")
        self.outputs = self._values(session, "Output")
        self._input_order = [value.name for value in self.inputs]
        self._input_names = _c_strings(self._input_order)
        self._given = frozenset(self._input_order)
        self._output_names = _c_strings([value.name for value in self.outputs])

    def _values(self, session: c_void_p, kind: str) -> list[TensorInfo]:
        count = c_size_t()
        self._library.call(f"SessionGet{kind}Count", session, byref(count))
        return [self._value(session, kind, index) for index in range(count.value)]

    def _value(self, session: c_void_p, kind: str, index: int) -> TensorInfo:
        library, name, info, tensor = self._library, c_void_p(), c_void_p(), c_void_p()
        library.call(f"SessionGet{kind}Name", session, index, library.allocator, byref(name))
        text = string_at(name).decode(errors="surrogateescape")
        library.call("AllocatorFree", library.allocator, name)
        library.call(f"SessionGet{kind}TypeInfo", session, index, byref(info))
        try:
            library.call("CastTypeInfoToTensorInfo", info, byref(tensor))
            if not tensor:
                return TensorInfo(text, "no tensor", ())
            number, rank = c_int(), c_size_t()
            library.call("GetTensorElementType", tensor, byref(number))
            library.call("GetDimensionsCount", tensor, byref(rank))
            sizes = (c_int64 * rank.value)()
            library.call("GetDimensions", tensor, sizes, rank)
            symbols = (c_char_p * len(sizes))()
            library.call("GetSymbolicDimensions", tensor, symbols, len(sizes))
            shape = [
                size if size >= 0 else (symbol.decode(errors="replace") if symbol else None)
                for size, symbol in zip(sizes, symbols, strict=True)
            ]
        finally:
            library.releases["ReleaseTypeInfo"](info)
        return TensorInfo(text, _type_name(number.value), tuple(shape))

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the model's outputs in order.

        Raises
        ------
        StageError
            If an output is not a tensor, or of a type that cannot travel.
        OnnxRuntimeError
            With ONNX Runtime's own message, if it fails.
        """
        # A thread that still runs the model when it is closed keeps the session.
        if (handle := self._handle) is None:
            raise StageError("the model is closed")
        many, count = len(inputs), len(self.outputs)
        order = list(inputs)
        names = self._input_names if order == self._input_order else self._names_of(order)
        # The slots hold the values that are given, those that are returned, and what functions return. They belong to
        # this run alone. Passing numbers is faster than passing objects of ctypes.
        slots = (c_size_t * (many + count + _ROOM))()
        given = addressof(slots)
        returned = given + many * _SLOT
        buffers: list[_PyBuffer] = []
        try:
            place = given
            for tensor in inputs.values():
                self._create_input(tensor, place, buffers)
                place += _SLOT
            if status := self._run(handle.value, None, names, given, many, self._output_names, count, returned):
                raise self._library.error(status)
            return [self._read_output(output, many + place, slots, handle) for place, output in enumerate(self.outputs)]
        finally:
            for value in slots[: many + count]:
                if value:
                    self._release_value(value)
            for buffer in buffers:
                _release_buffer(byref(buffer))

    def _names_of(self, order: list[str]) -> Any:  # noqa: ANN401 - an array of ctypes
        """Return names for ONNX Runtime, which would run operators with whatever is in the place of a missing input."""
        if missing := [name for name in self._input_order if name not in order]:
            from inference_runtime.engine.onnxruntime_errors import error_of  # noqa: PLC0415 - hardly ever needed

            raise error_of(_INVALID_ARGUMENT, f"Required inputs ({missing}) are missing from input feed ({order}).")
        return _c_strings(order)

    def _create_input(self, tensor: Tensor, place: int, buffers: list[_PyBuffer]) -> None:
        """Put a value of ONNX Runtime's at `place`, on a tensor's own bytes, which `buffers` keep where they are."""
        data = tensor.data
        if isinstance(data, list):
            self._create_string_input(data, tensor.shape, place)
            return
        address: Any = data  # of bytes, ctypes knows it
        if type(data) is not bytes:
            address = self._pin_buffer(data, buffers)
            if address % ITEM_SIZES[tensor.dtype]:  # a part of something; kernels may rely on numbers in their places
                address = self._pin_buffer(bytes(data), buffers)
        self._create_value(tensor, address, place)

    @staticmethod
    def _pin_buffer(data: Any, buffers: list[_PyBuffer]) -> int:  # noqa: ANN401 - whatever has bytes
        buffer = _PyBuffer()
        _get_buffer(data, byref(buffer), 0)
        buffers.append(buffer)
        address: int = buffer.buf
        return address

    def _create_string_input(self, strings: list[str], shape: tuple[int, ...], place: int) -> None:
        call, buffer = self._library.call, c_void_p()
        call("CreateTensorAsOrtValue", self._library.allocator, _sizes(shape), len(shape), _NUMBERS[STRING], place)
        value = c_size_t.from_address(place).value
        for index, string in enumerate(strings):
            data = string.encode()
            # Not as a C string, which would end at the first NUL.
            call("GetResizedStringTensorElementBuffer", value, index, len(data), byref(buffer))
            memmove(buffer, data, len(data))

    def _read_output(self, output: TensorInfo, place: int, slots: Any, handle: Handle) -> Tensor:  # noqa: ANN401 - of ctypes
        """Return the value of ONNX Runtime's at a place of the slots as a tensor.

        A small one is copied. A large one keeps its bytes where they are, and its place is empty afterwards.
        """
        if output.dtype not in ITEM_SIZES and output.dtype != STRING:
            raise StageError(f"model output {output.name!r} is {output.dtype}, which cannot travel")
        value = slots[place]
        room = addressof(slots) + (len(slots) - _ROOM) * _SLOT
        if status := self._get_shape(value, room, room + _SLOT, room + 2 * _SLOT) or self._get_data(value, room):
            raise self._library.error(status)
        data, sizes, rank = slots[-_ROOM:]
        shape = (c_int64 * rank).from_address(sizes)[:] if rank else ()
        if output.dtype == STRING:
            return Tensor(STRING, shape, self._read_strings(value, prod(shape)))
        size = prod(shape) * ITEM_SIZES[output.dtype]
        if size < _LEAST_LENT:
            return Tensor(output.dtype, shape, string_at(data, size))
        lent: Any = (c_char * size).from_address(data)
        if output.name in self._given:  # the bytes are those of the caller, who may change or drop them
            return Tensor(output.dtype, shape, bytes(lent))
        lent.loan = Loan(self._library, handle, value)
        slots[place] = 0
        return Tensor(output.dtype, shape, memoryview(lent).cast("B").toreadonly())

    def _read_strings(self, value: int, count: int) -> list[str]:
        call, length = self._library.call, c_size_t()
        call("GetStringTensorDataLength", value, byref(length))
        content, starts = create_string_buffer(length.value), (c_size_t * count)()
        call("GetStringTensorContent", value, content, length, starts, count)
        data, bounds = content.raw, [*starts, length.value]
        # A model may cut a string anywhere.
        return [data[bounds[n] : bounds[n + 1]].decode(errors="replace") for n in range(count)]

    def close(self) -> None:
        """Give the memory back, as soon as no thread runs the model any more."""
        self._handle = None


@lru_cache(maxsize=64)
def _sizes(shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - an array of ctypes, which is only read
    return (c_int64 * len(shape))(*shape)


def _c_strings(strings: list[str]) -> Any:  # noqa: ANN401 - an array of ctypes
    return (c_char_p * len(strings))(*[string.encode(errors="surrogateescape") for string in strings])


def _type_name(number: int) -> str:
    found = _TYPES[number] if number < len(_TYPES) else None
    return found or f"ONNX type {number}"
