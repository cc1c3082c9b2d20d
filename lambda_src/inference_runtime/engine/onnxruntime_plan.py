"""Keeps the values that small runs of a model share, which take longer to prepare than to use."""

from __future__ import annotations

import sys
from _thread import allocate_lock  # `threading` takes milliseconds to import
from ctypes import addressof, byref, c_char, c_void_p

from inference_runtime.tensors.tensor import ITEM_SIZES, Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inference_runtime.engine.onnxruntime_c import Handle, Library
    from inference_runtime.engine.session import TensorInfo

    Key = tuple[tuple[str, str, tuple[int, ...]], ...]

MOST_PLANS = 8
"""Most plans of a session: one for each of the first combinations of shapes."""

MOST_BYTES = 256 * 1024
"""Most bytes of inputs and outputs. Up to here, copies take less time than they save; from about twice that, more."""

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector of a CPU
_UNWRITTEN = b"\xa5"


def key_of(inputs: Mapping[str, Tensor]) -> Key:
    """Return what inputs have in common that can share a plan: names in order, types and shapes."""
    return tuple([(name, tensor.dtype, tensor.shape) for name, tensor in inputs.items()])


def is_foreseeable(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> bool:
    """Return whether a model says that its inputs' shapes decide its outputs' shapes, and all of them are numbers.

    Whoever relies on it must still expect that a model does not do as it says. An output that is an input is none:
    ONNX Runtime returns the input's value for it, whatever is bound.
    """
    names = {value.name for value in inputs}
    known = {size for value in inputs for size in value.shape if size is not None}
    return all(value.dtype in ITEM_SIZES for value in (*inputs, *outputs)) and all(
        value.name not in names and all(isinstance(size, int) or size in known for size in value.shape)
        for value in outputs
    )


def is_small(inputs: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> bool:
    """Return whether a plan for such a run would pay."""
    return sum([len(tensor.data) for tensor in (*inputs.values(), *outputs)]) <= MOST_BYTES


class Plan:
    """Inputs and outputs of certain types and shapes, on memory of their own, and bound to a session.

    It keeps the session, which must not be released before it.

    Parameters
    ----------
    library, handle
        The session.
    inputs, outputs
        Of a run, by name: any others of these types and shapes can run as it did.

    Attributes
    ----------
    failed
        Whether this plan is of no use.

    Raises
    ------
    OnnxRuntimeError
        If something cannot be bound.
    """

    __slots__ = ("_binding", "_handle", "_inputs", "_library", "_lock", "_new", "_outputs", "_run", "failed")

    def __init__(
        self, library: Library, handle: Handle, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> None:
        self._library = library
        self._run = library.functions["RunWithBinding"]
        self._handle = handle
        self._binding = c_void_p()
        library.call("CreateIoBinding", handle.value, byref(self._binding))
        self._inputs = [self._bind("BindInput", *item) for item in inputs.items()]
        self._outputs = [
            (tensor.dtype, tensor.shape, self._bind("BindOutput", name, tensor)) for name, tensor in outputs.items()
        ]
        self._lock = allocate_lock()
        self._new = True
        self.failed = False

    def _bind(self, function: str, name: str, tensor: Tensor) -> memoryview:
        """Bind memory for a tensor, and return it."""
        library, value, size = self._library, c_void_p(), len(tensor.data)
        room = bytearray(_UNWRITTEN) * (size + _ALIGNMENT)
        address = addressof(c_char.from_buffer(room))
        start = -address % _ALIGNMENT
        library.create_value(tensor, address + start, addressof(value))
        try:
            library.call(function, self._binding, name.encode(errors="surrogateescape"), value)
        finally:
            library.releases["ReleaseValue"](value)  # the binding has its own
        return memoryview(room)[start : start + size]

    def run(self, inputs: Iterable[Tensor]) -> list[Tensor] | None:
        """Return the model's outputs, or None if the plan failed, does not fit, or is in use by another thread."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            for memory, tensor in zip(self._inputs, inputs, strict=True):
                memory[:] = tensor.data  # type: ignore[assignment] # strings have no plan
            if status := self._run(self._handle.value, None, self._binding):
                self._library.releases["ReleaseStatus"](status)
                self.failed = True
            elif self._new:
                self.failed = not self._is_written()
                self._new = False
            return None if self.failed else [Tensor(dtype, shape, m.tobytes()) for dtype, shape, m in self._outputs]
        except ValueError:  # something other than plain bytes
            return None
        finally:
            self._lock.release()

    def _is_written(self) -> bool:
        """Return whether the first run wrote each output where it is expected, or nothing to write."""
        return all(not memory or memory != _UNWRITTEN * len(memory) for _, _, memory in self._outputs)

    def __del__(self) -> None:
        # When the interpreter ends, the process gives everything back at once.
        if self._binding and not sys.is_finalizing():
            self._library.releases["ReleaseIoBinding"](self._binding)
