"""Build processes that start in milliseconds: forked from one that has imported torch, as `python -m` takes seconds.

Each build still runs in a separate process, with the environment, folder, output and log that it was given. One that
asks for another interpreter, or for variables that count when a process starts, starts as users start it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.model import process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODULE = "cdk_inference.model.building"
READ_AT_START = ("PYTHON", "LD_", "OMP_", "MKL_", "ORT_", "TORCH")
"""Variables that begin so are read when a process starts, or when its packages are imported."""

SET_BY_TORCH = frozenset({"TORCHINDUCTOR_CACHE_DIR"})
"""Variables that torch sets when it is imported: in the process of some tests, and in the one that builds."""

IMPORTED = (
    "onnxruntime.quantization",
    "torch._inductor.decomposition",
    "torch.export",
    "networkx",
    "requests",
    "safetensors.torch",
    "jinja2",
    "PIL.JpegImagePlugin",
)
"""Modules that most builds import, some of them while torch exports."""


class WarmBuilds:
    """Stands for the module `subprocess` in `cdk_inference.model.process`.

    Parameters
    ----------
    measuring
        Whether builds measure their models as long as those of users; otherwise for tenths of a second.
    """

    DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE

    def __init__(self, *, measuring: bool) -> None:
        self._measuring = measuring
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._usual = _at_start(os.environ | process.ENVIRONMENT)

    def Popen(self, command: Sequence[str], **options: Any) -> Any:  # noqa: N802 - as the real one is called
        """Start a build; see `subprocess.Popen`."""
        *python, work = command
        environment = options["env"]
        if python != [sys.executable, "-P", "-m", MODULE] or _at_start(environment) != self._usual:
            return subprocess.Popen(command, **options)
        if self._connection is None or self._server is None or self._server.poll() is not None:
            self._server, self._connection = self._started(environment)
        return _Build(self._connection, work, environment, options["stderr"].fileno())

    def close(self) -> None:
        """End the process that has torch; it ends when nobody is connected."""
        if self._server is not None and self._connection is not None:
            self._connection.close()
            self._server.wait()

    def _started(self, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            server = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), *(["measuring"] if self._measuring else [])],
                pass_fds=[theirs.fileno()],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
            )
        return server, ours


class _Build:
    """As much of `subprocess.Popen` as `run_build` needs, of a process that is not a child of this one."""

    def __init__(self, server: socket.socket, work: str, environment: Mapping[str, str], log: int) -> None:
        output, output_end = os.pipe()
        state, state_end = os.pipe()
        asked = {"work": work, "environment": dict(environment), "folder": str(Path.cwd())}
        try:
            socket.send_fds(server, [json.dumps(asked).encode()], [output_end, log, state_end])
        finally:
            os.close(output_end)
            os.close(state_end)
        self.stdout = os.fdopen(output, encoding="utf-8")
        self._state = os.fdopen(state)
        self.pid = int(self._state.readline())
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._state.readline())
            self._state.close()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in SET_BY_TORCH
    }


def keep_functions() -> None:
    """Let torch compile onnxscript's functions once for all exports of this process: five hundred take a second."""
    from onnxscript._framework_apis import torch_2_5 as functions
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if not hasattr(functions.get_torchlib_ops, "cache_info"):
        functions.get_torchlib_ops = cache(functions.get_torchlib_ops)
        ONNXRegistry.from_torchlib()


def measure_less() -> None:
    """Let a build measure its model for tenths of a second: no test rests on how quick a model is."""
    from cdk_inference.model.building.evaluation import measure

    measure.ROUND_SECONDS, measure.ROUNDS, measure.MAX_SECONDS = 0.02, 1, 2.0


def serve(connection: socket.socket, *, measuring: bool) -> None:
    """Import what a build imports, and fork for each request until nobody is connected."""
    for name in IMPORTED:
        import_module(name)
    keep_functions()
    if not measuring:
        measure_less()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who watch builds leave nothing behind
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            _watch(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(asked: dict[str, Any], output: int, log: int, state: int) -> None:
    """Start a build, and say which process it is and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    build = os.fork()
    if build == 0:
        os.close(state)
        _build(asked, output, log)
    os.close(output)
    os.write(state, f"{build}\n".encode())
    _, status = os.waitpid(build, 0)
    os.write(state, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _build(asked: dict[str, Any], output: int, log: int) -> None:
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(log, 2)
        os.close(output)
        os.close(log)
        os.environ.clear()
        os.environ.update(asked["environment"])
        time.tzset()
        os.chdir(asked["folder"])
        from cdk_inference.model.building.__main__ import main

        code = main(Path(asked["work"]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def install(*, measuring: bool = False) -> WarmBuilds:
    """Let this process build as described above, until what is returned is closed.

    Parameters
    ----------
    measuring
        As that of `WarmBuilds`.
    """
    warm = WarmBuilds(measuring=measuring)
    setattr(process, "subprocess", warm)  # noqa: B010 - another type
    return warm


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), measuring="measuring" in sys.argv[2:])
