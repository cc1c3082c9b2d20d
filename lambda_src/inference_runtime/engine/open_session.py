"""Opens the model: on the GPU where the function has one, otherwise on the CPU."""

from __future__ import annotations

import os

from inference_runtime.engine.session import Threads
from inference_runtime.errors import StageError
from inference_runtime.model import DRIVER_FILE
from inference_runtime.model.files import model_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.engine.interfaces import Session


def open_session() -> tuple[Session, str]:
    """Return a session of the function's model, and where it runs: `cpu` or `gpu`.

    On a CPU, `INFERENCE_ENGINE` says what runs it: `c_api`, the shared library of ONNX Runtime alone, which is the
    default, or `python`, its package. On a GPU it is the package.

    Raises
    ------
    StageError
        If what shall run it is not there.
    OutOfMemoryError
        If the model does not fit the GPU.
    RetryableError, KernelFaultError
        If the GPU is broken.
    """
    # Official builds for Linux report models and machines to Microsoft unless this is set before they initialize
    # (https://github.com/microsoft/onnxruntime/pull/29843).
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    kind = "python" if os.environ.get("ACCELERATOR") == "cuda" else os.environ.get("INFERENCE_ENGINE", "c_api")
    # Only the one that is wanted is imported, and perhaps only this one is there.
    if kind == "c_api":
        from inference_runtime.engine.heap import prefer_huge_pages  # noqa: PLC0415
        from inference_runtime.engine.onnxruntime_c import CSession  # noqa: PLC0415

        prefer_huge_pages()
        return _opened(CSession), "cpu"
    if kind == "python":
        try:
            from inference_runtime.engine.onnxruntime_package import open_package_session  # noqa: PLC0415
        except ImportError as error:
            raise StageError(f"cannot import the package onnxruntime: {error}") from error
        places = set()

        def open_graph(path: str, threads: Threads) -> Session:
            session, place = open_package_session(path, threads)
            places.add(place)
            return session

        session = _opened(open_graph)
        return session, "gpu" if places == {"gpu"} else "cpu"
    raise StageError(f'INFERENCE_ENGINE is "{kind}", expected "c_api" or "python"')


def _opened(open_graph: Callable[[str, Threads], Session]) -> Session:
    """Return a session of the function's model: of its graph, or of the driver of its graphs."""
    path, threads = model_path(), Threads.of_function()
    if not path.endswith(DRIVER_FILE):
        return open_graph(path, threads)
    from inference_runtime.engine.drivers.open_driver import open_driver  # noqa: PLC0415 - most models have one graph

    return open_driver(path, lambda graph, repeated: open_graph(graph, threads if repeated else threads.without_spin()))
