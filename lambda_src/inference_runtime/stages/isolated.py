"""The process in which items are preprocessed that may kill or stall it: `isolation` starts it.

Run as `python -m inference_runtime.stages.isolated DESCRIPTOR PREFIX`: the number of a connected socket, and the prefix
of the variables that name the user code.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import json_variable
from inference_runtime.errors import RejectItem, reason_of
from inference_runtime.stages.inputs import InputSpec, check_returned, kept_names
from inference_runtime.stages.item import Item
from inference_runtime.stages.user_code import load_stage
from inference_runtime.tensors import protocol
from inference_runtime.tensors.tensor import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024**2

_PR_SET_PDEATHSIG = 1
_MAX_TRACEBACK = 10_000  # characters
_SPARE = 64 * MIB  # of the function's memory, for everybody else in the environment


def serve(connection: socket.socket, prefix: str) -> None:
    """Answer each request, an item and its bytes, with its inputs or an error, until the other side is gone.

    A first message, before any request, says that the user code is loaded, or why it is not.
    """
    try:
        function = load_stage(prefix)
        specs = [InputSpec.from_json(spec) for spec in json_variable("MODEL_INPUTS", list)]
        keep = kept_names()
    except Exception as error:
        protocol.send(connection, described(error), {})
        return
    limit_memory()
    protocol.send(connection, {}, {})
    while True:
        try:
            header, received = protocol.receive(connection)
        except protocol.BrokenConnectionError:
            return
        data = bytes(received.pop("data").encoded())
        try:
            inputs, kept = check_returned(function(data, Item.from_json(header["item"])), specs, keep)
            answer: tuple[dict[str, Any], dict[str, Any]] = ({"kept": kept}, tensors_of(inputs))
        except Exception as error:
            answer = (described(error), {})
        sys.stdout.flush()  # this process is killed as soon as it is not needed
        protocol.send(connection, *answer)


def described(error: Exception) -> dict[str, Any]:
    """Return an answer that says what was raised."""
    lines = "" if isinstance(error, RejectItem) else "".join(traceback.format_exception(error))
    return {
        "rejected": isinstance(error, RejectItem),
        "error": type(error).__name__,
        "cause": reason_of(error),
        "traceback": lines[-_MAX_TRACEBACK:],
    }


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even if it hangs."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which ended before the kernel knew
        sys.exit()


def _be_killed_first() -> None:
    """Have the kernel kill this process, and not its parent, when the memory of both is used up."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_memory() -> None:
    """Let allocations fail before they take what the function and this process do not have together.

    The limit counts from what is mapped now: libraries map much that they never touch, the more the more CPUs there
    are.
    """
    try:
        size = int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) * MIB
        _, resident, *_, data, _ = _pages("self")
        _, others, *_ = _pages(str(os.getppid()))
        spare = max(size - others - resident - _SPARE, _SPARE)
        resource.setrlimit(resource.RLIMIT_DATA, (data + spare, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (KeyError, ValueError, OSError):
        pass  # not on Lambda, or its own limit is lower


def _pages(process: str) -> list[int]:
    """Return what `/proc/PID/statm` says, in bytes."""
    return [int(number) * resource.getpagesize() for number in Path(f"/proc/{process}/statm").read_text().split()]


def begin(serve: Callable[[socket.socket, str], None]) -> None:
    """Be the process that a `Worker` starts: serve requests until the other side is gone."""
    faulthandler.enable()  # a crash leaves a traceback in the log
    descriptor, argument, parent = sys.argv[1:]
    _end_with(int(parent))
    _be_killed_first()
    with socket.socket(fileno=int(descriptor)) as connection:
        connection.set_inheritable(False)
        serve(connection, argument)


if __name__ == "__main__":
    begin(serve)
