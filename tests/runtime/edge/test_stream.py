"""Packets of a broker reach the client as they were sent, but for payloads that are too large."""

from __future__ import annotations

import hashlib
import tracemalloc
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.edge.inputs.stream import LeftOut, MessageStream, _digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST = 200


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _digits(len(body)) + body


def message(topic: bytes, payload: bytes, qos: int) -> bytes:
    return packet(0x30 | qos << 1, len(topic).to_bytes(2, "big") + topic + b"\0\7" * (qos > 0) + payload)


def source(sent: bytes, sizes: Iterator[int]) -> Callable[[int], bytes]:
    """Return what reads these bytes, in pieces of any size; 0 stands for a network that has nothing yet."""
    place = 0

    def read(most: int) -> bytes:
        nonlocal place
        if place < len(sent) and not (size := next(sizes)):
            raise BlockingIOError
        piece = sent[place : place + min(most, size)] if place < len(sent) else b""
        place += len(piece)
        return piece

    return read


MESSAGES = st.builds(
    message, st.binary(max_size=300), st.binary(max_size=2 * MOST) | st.just(b"x" * 2_000), st.sampled_from([0, 1])
)
OTHERS = st.builds(packet, st.sampled_from([0x20, 0x40, 0x90, 0xD0]), st.binary(max_size=4))


SIZES = st.lists(st.integers(0, 500), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 20)


@given(st.lists(MESSAGES | OTHERS, max_size=4), SIZES, st.lists(st.integers(1, 300), min_size=1, max_size=3))
def test_packets_pass_in_order_and_large_payloads_leave_size_and_digest(
    packets: list[bytes], sizes: list[int], asked: list[int]
) -> None:
    stream, ask = MessageStream(MOST), cycle(asked)
    read = source(b"".join(packets), cycle(sizes))
    received, ended = b"", False
    while not ended:
        with suppress(BlockingIOError):
            piece = stream.receive(read, next(ask))
            received, ended = received + piece, not piece
    for sent in packets:
        start = 1 + next(place for place, digit in enumerate(sent[1:], 1) if digit < 128)
        topic = sent[start : start + 2 + int.from_bytes(sent[start : start + 2], "big") + 2 * (sent[0] & 2 > 0)]
        payload = sent[start + len(topic) :]
        if sent[0] >> 4 != 3 or len(payload) <= MOST:
            assert received.startswith(sent)
            received = received[len(sent) :]
            continue
        shown = packet(sent[0], topic + stream._mark + bytes(40))
        assert received[: len(shown) - 40] == shown[:-40]
        told = stream.left_out(received[len(shown) - 56 : len(shown)])
        assert told == LeftOut(len(payload), hashlib.sha256(payload).hexdigest())
        received = received[len(shown) :]
    assert received == b""


def test_a_payload_that_is_left_out_is_never_in_memory() -> None:
    head, size = message(b"scores/a", b"", 1), 32 * 1024**2
    head = head[:1] + _digits(len(head) - 2 + size) + head[2:]
    left = len(head) + size
    piece = bytes(65_536)

    def read(most: int) -> bytes:
        nonlocal left
        found = head[-left + size :][:most] if left > size else piece[: min(most, left)]
        left -= len(found)
        return found

    stream = MessageStream(MOST)
    tracemalloc.start()
    try:
        first = stream.receive(read, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (first, left) == (head[:1], 0)
    assert peak < 1024**2


@pytest.mark.parametrize("sent", [b"\x32\xff\xff\xff\xff\x00", b"\x32\xff\x01\xff\xff" + b"x" * 300])
def test_a_malformed_packet_ends_with_its_connection_and_a_new_one_begins(sent: bytes) -> None:
    stream = MessageStream(MOST)
    read = source(sent, cycle([50]))
    while stream.receive(read, 100):
        pass
    stream.reset()
    whole = message(b"a", b"b", 1)
    assert stream.receive(source(whole, cycle([50])), 1) == whole[:1]
