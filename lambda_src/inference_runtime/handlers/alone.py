"""The process in which a direct function scores messages that came back, one at a time: `alone.Alone` starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.stages.isolated import begin, described, limit_memory
from inference_runtime.tensors import protocol

if TYPE_CHECKING:
    import socket


class _Context:
    """Stands for Lambda's context: an invocation of the time that a message gets."""

    def __init__(self, seconds: float) -> None:
        self._milliseconds = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds at the beginning, which is when the runtime asks."""
        return self._milliseconds


def serve(connection: socket.socket, _: str) -> None:
    """Answer each request, a message and its seconds, as the fused handler does, until the other side is gone.

    A first answer, before any request, says that the model is loaded, or why it is not.
    """
    try:
        from inference_runtime.handlers.fused import handler  # noqa: PLC0415 - it reads the environment
    except Exception as error:
        protocol.send(connection, described(error), {})
        return
    limit_memory()
    protocol.send(connection, {}, {})
    while True:
        try:
            header, _tensors = protocol.receive(connection)
        except protocol.BrokenConnectionError:
            return
        try:
            answer: dict[str, Any] = handler({"messages": [header["message"]]}, _Context(header["seconds"]))
        except Exception as error:
            answer = described(error)
        protocol.send(connection, answer, {})


if __name__ == "__main__":
    begin(serve)
