"""Messages between processes: what arrives is what was sent, or an error."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_runtime.tensors import protocol
from inference_runtime.tensors.tensor import DTYPES, arrays_of, tensors_of

shapes = hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
arrays = st.dictionaries(
    st.text(max_size=9),
    st.sampled_from(sorted(DTYPES)).flatmap(lambda name: hnp.arrays(name, shapes))
    | hnp.arrays(object, shapes, elements=st.text(max_size=5)),
    max_size=4,
)


def exchange(header: dict[str, Any], sent: dict[str, np.ndarray]) -> Any:
    one, other = socket.socketpair()
    with one, other:
        writer = threading.Thread(target=protocol.send, args=[one, header, tensors_of(sent)])
        writer.start()
        got, received = protocol.receive(other)
        writer.join()
    return got, arrays_of(received)


@given(st.dictionaries(st.text(max_size=5).filter(lambda name: name != "tensors"), st.text(max_size=5)), arrays)
def test_what_arrives_is_what_was_sent(header: dict[str, str], sent: dict[str, np.ndarray]) -> None:
    got, received = exchange(header, sent)
    assert got == header
    assert received.keys() == sent.keys()
    for name, array in sent.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array)


def test_views_and_large_arrays() -> None:
    x = np.arange(3_000_000, dtype=np.int32).reshape(3, 1000, 1000)
    sent = {"transposed": x.T, "every other": x[:, ::2], "whole": x}
    _, received = exchange({}, sent)
    for name, array in sent.items():
        np.testing.assert_array_equal(received[name], array)


@given(st.binary(max_size=200), st.booleans())
def test_anything_else_is_an_error(data: bytes, marked: bool) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall((b"tns2" if marked else b"") + data)
        one.close()
        with pytest.raises(protocol.BrokenConnectionError):
            protocol.receive(other)


@pytest.mark.parametrize(
    "entry", ['["x", "uint8", [Infinity], 1]', '[["x"], "uint8", [1], 1]', '[null, "uint8", [1], 1]']
)
def test_a_header_that_lists_no_tensors_fails(entry: str) -> None:
    text = f'{{"tensors": [{entry}]}}'.encode()
    one, other = socket.socketpair()
    with one, other:
        one.sendall(struct.pack("<4sI", b"tns2", len(text)) + text + b"x")
        with pytest.raises(protocol.BrokenConnectionError, match="the header"):
            protocol.receive(other)
