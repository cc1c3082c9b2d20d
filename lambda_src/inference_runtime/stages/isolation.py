"""Preprocesses items in a separate process, so that one that crashes or hangs ends alone.

The process is started for a batch and ends with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.errors import RejectItem
from inference_runtime.stages.time_limit import NotReadyError, TookTooLongError
from inference_runtime.stages.worker import DiedError, Worker
from inference_runtime.tensors.tensor import Tensor, arrays_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


class IsolatedError(Exception):
    """An item made preprocessing fail, or killed its process.

    Attributes
    ----------
    error
        Name of the error.
    cause
        Its text.
    """

    def __init__(self, error: str, cause: str, traceback: str = "") -> None:
        super().__init__(f"{error}: {cause}" + (f"\n{traceback}" if traceback else ""))
        self.error = error
        self.cause = cause


class Isolation:
    """A stage's user code in another process. To be used in one thread: the process dies when that thread ends.

    Parameters
    ----------
    prefix
        The beginning of the names of the user code's variables, see `load_stage`.
    left
        Returns the seconds that are left for all items, in which a process must start.
    """

    def __init__(self, prefix: str, left: Callable[[], float]) -> None:
        self._prefix = prefix
        self._left = left
        self._worker: Worker | None = None
        self._used = False

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises
        ------
        NotReadyError
            If it is not ready in time, or does not load the user code, which this process has loaded.
        """
        if self._worker is None:
            self._worker, self._used = _started(self._prefix, self._left()), False

    def inputs(self, data: bytes, item: Item, seconds: float) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the model's inputs for an item, and the values to keep.

        Parameters
        ----------
        data, item
            The arguments of the user's function.
        seconds
            That it may take.

        Raises
        ------
        RejectItem
            If the user's function raises it, or the inputs do not fit the model.
        TookTooLongError
            If it took longer; the process is gone.
        IsolatedError
            If the user's function raises anything else, or the process died.
        NotReadyError
            If a new process was needed, and does not start.
        """
        self.start()
        assert self._worker is not None  # noqa: S101 - for mypy
        used, self._used = self._used, True
        try:
            return _inputs_of(self._worker, data, item, seconds)
        except TimeoutError as error:
            self.close()
            raise TookTooLongError(seconds) from error
        except IsolatedError as error:
            if error.error == MemoryError.__name__:
                self.close()  # it may have little left
            raise
        except DiedError as error:
            self.close()
            if not used:
                raise IsolatedError("ProcessDiedError", str(error)) from error
        # An earlier item may have broken the process, so this one gets a process to itself.
        return self.inputs(data, item, seconds)

    def close(self) -> None:
        """End the process, and all that it has started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _inputs_of(worker: Worker, data: bytes, item: Item, seconds: float) -> tuple[dict[str, Array], dict[str, Any]]:
    header, tensors = worker.ask({"item": item.to_json()}, seconds, {"data": Tensor("uint8", [len(data)], data)})
    _check(header)
    return arrays_of(tensors), header["kept"]


def _check(header: Mapping[str, Any]) -> None:
    """Raise what the process says that it met."""
    if header.get("rejected"):
        raise RejectItem(header["cause"])
    if "error" in header:
        raise IsolatedError(header["error"], header["cause"], header["traceback"])


def _started(prefix: str, seconds: float) -> Worker:
    """Return a process that has loaded the user code."""
    try:
        worker = Worker("inference_runtime.stages.isolated", prefix)
    except OSError as error:  # no memory, say
        raise NotReadyError(f"the process for isolated items does not start: {error}") from error
    try:
        header, _ = worker.receive(seconds)
        _check(header)
    except (DiedError, TimeoutError, IsolatedError, RejectItem) as error:
        worker.close()
        why = f"it is not ready after {seconds:.1f} s" if isinstance(error, TimeoutError) else error
        raise NotReadyError(f"the process for isolated items does not start: {why}") from error
    except BaseException:
        worker.close()
        raise
    return worker
