"""Messages with tensors between processes of one machine, through a socket; nothing in them is ever executed.

A message is a mark, the length of the header, the header as JSON, and the bytes of the tensors that it lists.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

from inference_runtime.tensors.tensor import ITEM_SIZES, STRING, Tensor

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MAX_HEADER = 1024**2
MAX_TENSORS = 16 * 1024**3
"""Most bytes of a message's tensors. A larger message was not written by `send`."""

_PREFIX = struct.Struct("<4sI")
_MARK = b"tns2"


class BrokenConnectionError(Exception):
    """The other side is gone, or what it sent is not a message. The connection is of no more use."""


def send(connection: socket.socket, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a message.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    contents = [tensor.encoded() for tensor in tensors.values()]
    listed = [
        [name, tensor.dtype, list(tensor.shape), len(data)]
        for (name, tensor), data in zip(tensors.items(), contents, strict=True)
    ]
    text = json.dumps({**header, "tensors": listed}).encode()
    connection.sendall(_PREFIX.pack(_MARK, len(text)) + text)
    for data in contents:
        connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a message: its header and its tensors.

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
        listed = [
            (name, str(dtype), [int(n) for n in shape], int(size)) for name, dtype, shape, size in header.pop("tensors")
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenConnectionError(f"the header is not as it should be: {error!r}") from error
    # Before anything is read: what a false header claims may never come.
    if sum(size for *_, size in listed) > MAX_TENSORS or not all(_possible(*entry) for entry in listed):
        raise BrokenConnectionError(f"the header lists no tensors: {listed!r:.200}")
    tensors = {}
    for name, dtype, shape, size in listed:
        data = _read(connection, size)
        try:
            tensors[name] = Tensor.decoded(dtype, shape, data)
        except (ValueError, RecursionError) as error:
            raise BrokenConnectionError(f"the header lists no tensors: {error}") from error
    return header, tensors


def _possible(name: object, dtype: str, shape: list[int], size: int) -> bool:
    """Tell whether this can be a tensor's name, and one of this type and shape has that many bytes."""
    if not isinstance(name, str) or min([size, *shape]) < 0:
        return False
    return dtype == STRING or (dtype in ITEM_SIZES and size == math.prod(shape) * ITEM_SIZES[dtype])


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if count == 0:
            raise BrokenConnectionError(f"the other side is gone, after {done} of {size} bytes")
        done += count
    return data
