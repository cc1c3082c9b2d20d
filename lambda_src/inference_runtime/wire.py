"""Messages with arrays between processes of one machine, through a socket; nothing in them is ever executed.

A message is a mark, the length of the header, the header as JSON, and the bytes of the arrays that it lists.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.tensors import DTYPES

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from inference_runtime.tensors import Array

MAX_HEADER = 1024**2
MAX_ARRAYS = 16 * 1024**3
"""Most bytes of a message's arrays. What claims to be more was not written by `send`."""

_PREFIX = struct.Struct("<4sI")
_MARK = b"tns1"


class BrokenConnectionError(Exception):
    """The other side is gone, or what it sent is no message. The connection is of no more use."""


def send(connection: socket.socket, header: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a message.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    connection.sendall(_PREFIX.pack(_MARK, len(text)) + text)
    for array in arrays.values():
        connection.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a message: its header and its arrays.

    Raises
    ------
    BrokenConnectionError
        If the other side is gone, or sent anything else.
    OSError
        If the connection fails, or times out.
    """
    mark, length = _PREFIX.unpack(_read(connection, _PREFIX.size))
    if mark != _MARK or length > MAX_HEADER:
        raise BrokenConnectionError("what arrived is no message")
    try:
        header = json.loads(_read(connection, length))
        listed = [(name, dtype, [int(n) for n in shape]) for name, dtype, shape in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenConnectionError(f"the header is not as it should be: {error!r}") from error
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize if dtype in DTYPES else -1 for _, dtype, shape in listed]
    if any(n < 0 for _, _, shape in listed for n in shape) or min(sizes, default=0) < 0 or sum(sizes) > MAX_ARRAYS:
        raise BrokenConnectionError(f"the header lists no arrays: {listed!r:.200}")
    arrays = {}
    for (name, dtype, shape), size in zip(listed, sizes, strict=True):
        arrays[name] = np.frombuffer(_read(connection, size), dtype).reshape(shape)
    return header, arrays


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if count == 0:
            raise BrokenConnectionError(f"the other side is gone, after {done} of {size} bytes")
        done += count
    return data
