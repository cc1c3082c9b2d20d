"""Gives functions new code as AWS does: what is being invoked ends with the old code, the next invocation has the new.

MiniStack ends all processes of a function that changes, also while they work. And it unpacks a whole package for each
process, which takes longer than to start one.
"""

from __future__ import annotations

import os
import tempfile
import threading
import zipfile
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

if TYPE_CHECKING:
    from collections.abc import Callable

# How MiniStack's script for the processes of Python functions says that a module cannot be imported, and how it shall.
_INIT_ERROR = 'json.dumps({"status": "error", "error": str(e)})'
_INIT_TRACEBACK = 'json.dumps({"status": "error", "error": str(e) + "\\n" + traceback.format_exc()})'
_INIT_FAILED = "Worker init failed: "


def install(folder: Path) -> None:
    """Let functions change as on AWS.

    Parameters
    ----------
    folder
        A new folder for what is unpacked. It is on the file system of the functions' processes.
    """
    lambda_runtime.zipfile = _unpacking_once(folder)
    _let_work_end()
    _log_failed_starts()


def _unpacking_once(folder: Path) -> SimpleNamespace:
    """Return a ``zipfile`` that unpacks each file once: all processes of all functions get it by hard links.

    A package of which one file is new has only that one unpacked.
    """
    lock = threading.Lock()
    folder.mkdir()
    known: dict[tuple[str, int, int], tuple[Path, Path]] = {}  # where a file is, and where in a package it belongs

    class Package(zipfile.ZipFile):
        def extractall(self, path: Any = None, *_: Any, **__: Any) -> None:  # noqa: ANN401
            infos = self.infolist()
            files = [(info.filename, info.CRC, info.file_size) for info in infos if not info.is_dir()]
            with lock:
                if not known.keys() >= set(files):
                    begun = Path(tempfile.mkdtemp(dir=folder))
                    for file in files:
                        if file not in known:
                            unpacked = Path(self.extract(file[0], begun))
                            known[file] = unpacked, unpacked.relative_to(begun)
            for info in infos:
                if info.is_dir():
                    self.extract(info, path)
            found = [known[file] for file in files]
            for parent in {Path(path, name).parent for _, name in found}:
                parent.mkdir(parents=True, exist_ok=True)
            for unpacked, name in found:
                os.link(unpacked, Path(path, name))

    return SimpleNamespace(**{**vars(zipfile), "ZipFile": Package})


def _let_work_end() -> None:
    """Keep the processes that work while their function changes, until they have answered."""
    changing: ContextVar[bool] = ContextVar("changing", default=False)
    retired: set[Any] = set()
    kill, release, acquire = lambda_runtime.kill_workers, lambda_runtime.release_worker, lambda_runtime.acquire_worker

    def gently(operation: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(operation)
        def change(*given: Any, **named: Any) -> Any:  # noqa: ANN401
            token = changing.set(True)
            try:
                return operation(*given, **named)
            finally:
                changing.reset(token)

        return change

    def kill_idle(workers: list[Any]) -> None:
        if changing.get():
            with lambda_runtime._lock:
                busy = {worker for worker in workers if worker.in_use}
                retired.update(busy)
            workers = [worker for worker in workers if worker not in busy]
        kill(workers)

    def release_or_kill(worker: Any) -> None:  # noqa: ANN401
        release(worker)
        if worker in retired:
            retired.discard(worker)
            kill([worker])

    def acquire_of_code(name: str, config: Any, code: bytes, qualifier: str = "$LATEST", *given: Any) -> Any:  # noqa: ANN401
        while True:
            worker, how = acquire(name, config, code, qualifier, *given)
            if worker is None or worker.code_zip is code or worker.code_zip == code:
                return worker, how
            # It was begun by an invocation that read the code a moment before that was replaced.
            with lambda_runtime._lock:
                lambda_runtime._workers[lambda_runtime._worker_key(name, config, qualifier)].remove(worker)
            kill([worker])

    lambda_runtime.kill_workers = kill_idle
    lambda_svc.release_worker = release_or_kill
    lambda_svc.acquire_worker = acquire_of_code
    for name in ("_update_code", "_update_config", "_delete_function"):
        setattr(lambda_svc, name, gently(getattr(lambda_svc, name)))


def _log_failed_starts() -> None:
    """Write into a function's log why its process does not start, with the traceback, as Lambda does."""
    script, execute = lambda_runtime._PYTHON_WORKER_SCRIPT, lambda_svc._execute_function_warm
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(_INIT_ERROR, _INIT_TRACEBACK)

    def logged(*given: Any, **named: Any) -> dict[str, Any]:
        answer: dict[str, Any] = execute(*given, **named)
        body = answer.get("body")
        if not (answer.get("error") and isinstance(body, dict)):
            return answer
        message, _, trace = str(body.get("errorMessage", "")).partition("\n")
        if not message.startswith(_INIT_FAILED):
            return answer
        body = {**body, "errorMessage": message, "stackTrace": trace.splitlines(keepends=True)}
        return {**answer, "body": body, "log": f"[ERROR] {message}\n{trace}"}

    lambda_svc._execute_function_warm = logged
