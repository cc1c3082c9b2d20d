"""The bytes that come from an MQTT broker, without the payloads of messages that are too large to be kept.

A message may be 256 MB large, and MQTT 3.1.1 has no limit that a client could state. The client library gives a message
away once all of it is in memory. So a payload that is too large is counted and hashed as it comes. A mark with its size
and its digest takes its place.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    _Reads = Generator[int, bytes, None]

PIECE_BYTES = 64 * 1024
"""Bytes that are read at a time."""

_PUBLISH = 3
_QOS = 0b0110
_TOPIC_LENGTH_BYTES, _ID_BYTES = 2, 2
_MORE = 0b1000_0000
_LENGTH_DIGITS = 4
_SIZE = struct.Struct("!Q")


class LeftOut(NamedTuple):
    """The payload of a message that was not kept.

    Attributes
    ----------
    size
        In bytes.
    digest
        SHA-256 in hex.
    """

    size: int
    digest: str


class MessageStream:
    """Reads a connection for a client.

    Parameters
    ----------
    max_bytes
        Larger payloads are left out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._mark = os.urandom(16)  # no message begins with it but by chance
        self.reset()

    def reset(self) -> None:
        """Begin with the first byte of a connection."""
        self._ready = b""  # what the client gets next
        self._packets = self._read_packets()
        self._wanted = next(self._packets)

    def receive(self, read: Callable[[int], bytes], size: int) -> bytes:
        """Return up to so many bytes; none at the end of the connection.

        Parameters
        ----------
        read
            Reads up to a number of bytes from the connection.

        Raises
        ------
        OSError
            Any that `read` raises, such as `BlockingIOError`. The next call goes on from there.
        """
        while not self._ready:
            piece = read(self._wanted)
            if not piece:
                return b""
            self._wanted = self._packets.send(piece)
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def left_out(self, payload: bytes) -> LeftOut | None:
        """Return the size and the digest of the payload that was left out; None if this is the payload itself."""
        if not payload.startswith(self._mark):
            return None
        told = payload[len(self._mark) :]
        return LeftOut(_SIZE.unpack_from(told)[0], told[_SIZE.size :].hex())

    def _read_packets(self) -> _Reads:
        """Yield how many bytes are wanted at most, and get some, again and again."""
        while True:
            first = yield 1
            length, remaining = b"", 0
            while len(length) < _LENGTH_DIGITS and (not length or length[-1] & _MORE):
                digit = yield 1
                remaining += (digit[0] & ~_MORE) << 7 * len(length)
                length += digit
            if first[0] >> 4 == _PUBLISH and remaining > self._max_bytes + _TOPIC_LENGTH_BYTES:
                yield from self._read_message(first, length, remaining)
            else:
                self._ready = first + length
                yield from self._pass_on(remaining)

    def _read_message(self, first: bytes, length: bytes, remaining: int) -> _Reads:
        """Read a message that may be too large, from its topic on."""
        topic_length = yield from _exactly(_TOPIC_LENGTH_BYTES)
        rest = int.from_bytes(topic_length, "big") + (_ID_BYTES if first[0] & _QOS else 0)
        size = remaining - _TOPIC_LENGTH_BYTES - rest
        if size <= self._max_bytes:
            self._ready = first + length + topic_length
            yield from self._pass_on(remaining - _TOPIC_LENGTH_BYTES)
            return
        topic = yield from _exactly(rest)
        digest, left = hashlib.sha256(), size
        while left:
            piece = yield min(left, PIECE_BYTES)
            digest.update(piece)
            left -= len(piece)
        message = topic_length + topic + self._mark + _SIZE.pack(size) + digest.digest()
        self._ready = first + _digits(len(message)) + message

    def _pass_on(self, size: int) -> _Reads:
        while size:
            piece = yield min(size, PIECE_BYTES)
            self._ready += piece
            size -= len(piece)


def _exactly(size: int) -> Generator[int, bytes, bytes]:
    found = b""
    while len(found) < size:
        found += yield size - len(found)
    return found


def _digits(length: int) -> bytes:
    """Return the remaining length of a packet as MQTT writes it."""
    digits = bytearray()
    while length >= _MORE:
        digits.append(length % _MORE | _MORE)
        length //= _MORE
    return bytes([*digits, length])
