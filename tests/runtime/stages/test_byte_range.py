"""Items that are parts of objects: what a message says of them, and how preprocessing reads them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import MalformedMessageError, RejectItem
from inference_runtime.stages.byte_range import ByteRange
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from conftest import Inbox

READ_BYTES = """
    import numpy as np
    def function(data, item):
        return np.frombuffer(data.ljust(4, b"-")[:4], np.uint8).astype(np.float32)
"""
INPUTS = [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def message(part: Any, number: int = 1) -> dict[str, Any]:
    item = {"source": "arn:aws:s3:::photos", "id": f"a.zip#{number}", "sequence": "7", "time": "2026-01-02T03:04:05Z"}
    return {"message_id": f"m{number}", "body": json.dumps({"item": {**item, "range": part}})}


def test_a_message_with_a_range_becomes_an_item_without_a_payload() -> None:
    part = {"bucket": "photos", "key": "a.zip", "etag": "e", "start": 3, "end": 9, "size": 12}
    item = Item.from_message(message(part))
    assert (item.bucket, item.key, item.size, item.payload) == ("s3:photos", "a.zip#1", 12, None)
    assert item.range == ByteRange(**part)
    assert item.location == "s3:photos/a.zip#1"
    assert Item.from_json(item.to_json()).id == item.id
    assert Item.from_message(message({**part, "start": 4})).id != item.id


@pytest.mark.parametrize("direct", [False, True])
def test_a_message_may_have_its_item_in_the_body(direct: bool) -> None:
    """A pipe's template may take it out; a function without a pipe gets the body as it is."""
    item = {"source": "arn:aws:s3:::photos", "id": "a.jsonl#1", "sequence": "7", "time": "t", "member": "body"}
    body = {"item": item, "body": '{"a": 1}'}
    found = Item.from_message({"message_id": "m", "body": body, **({"item": item} if direct else {})})
    assert (found.key, found.payload) == ("a.jsonl#1", b'{"a": 1}')


GOOD = {"bucket": "b", "key": "k", "start": 0, "end": 1, "size": 1}


@pytest.mark.parametrize(
    "broken",
    [
        7,
        "x",
        {},
        {**GOOD, "start": -1},
        {**GOOD, "start": 2},
        {**GOOD, "end": "1"},
        {**GOOD, "size": 1.5},
        {**GOOD, "size": True},
        {**GOOD, "key": None},
        {**GOOD, "compression": "lzma"},
        {**GOOD, "reject": 1},
        {**GOOD, "more": 1},
    ],
)
def test_a_range_that_is_none_fails(broken: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"item\.range is"):
        Item.from_message(message(broken))


@given(data=st.binary(min_size=1, max_size=100), header=st.text(max_size=5), compressed=st.booleans())
def test_the_content_is_what_was_packed(data: bytes, header: str, compressed: bool) -> None:
    packed = deflated(data) if compressed else data
    part = ByteRange(
        bucket="b",
        key="k",
        start=5,
        end=5 + len(packed),
        size=len(data),
        compression="deflate" if compressed else None,
        crc32=zlib.crc32(data),
        header=header,
    )
    assert ByteRange.from_json(json.loads(json.dumps(part.to_json()))) == part
    assert part.content(packed) == header.encode() + data
    assert len(part.content(packed)) <= part.most_bytes


@pytest.mark.parametrize(
    ("changes", "packed", "reason"),
    [
        ({"size": 10}, deflated(bytes(10**6)), "inflates to more bytes, expected 10"),
        ({"size": 10}, deflated(b"abc"), "inflates to 3 bytes, expected 10"),
        ({"size": 3}, deflated(b"abc")[:-2], "inflates to"),
        ({"size": 3}, b"\xff\xff\xff", "cannot be inflated"),
        ({"size": 3, "crc32": 1}, deflated(b"abc"), "does not match its checksum"),
        ({"size": 3, "end": 9}, b"abc", "object has 3 bytes at 0, expected 9"),
    ],
)
def test_content_that_is_not_what_the_range_says_is_rejected(
    changes: dict[str, Any], packed: bytes, reason: str
) -> None:
    part = ByteRange(**{"bucket": "b", "key": "k", "start": 0, "end": len(packed), "compression": "deflate", **changes})
    with pytest.raises(RejectItem, match=reason):
        part.content(packed)


def test_preprocessing_reads_no_more_than_the_range(
    environment: pytest.MonkeyPatch, stage: Callable[[str], str], load: Callable[[str], Any], inbox: Inbox, s3: S3Client
) -> None:
    stage(READ_BYTES)
    environment.setenv("MODEL_INPUTS", json.dumps(INPUTS))
    environment.setenv("MAX_OBJECT_BYTES", "1000")
    handler = load("preprocess")
    packed = deflated(b"good")
    etag = s3.put_object(Bucket=inbox.bucket, Key="a.zip", Body=b"ABCDEFGH" + packed)["ETag"].strip('"')
    whole = {"bucket": inbox.bucket, "key": "a.zip", "etag": etag, "start": 2, "end": 6, "size": 4}
    parts = {
        1: whole,
        2: {**whole, "start": 8, "end": 8 + len(packed), "compression": "deflate"},
        3: {**whole, "end": 3, "size": 1, "header": "H\n"},
        4: {**whole, "start": 900, "end": 904},
        5: {**whole, "end": 2000},
        6: {**whole, "size": 2000, "compression": "deflate"},
        7: {**whole, "size": 0, "end": 2},
        8: {**whole, "size": 0, "end": 2, "reject": "member is encrypted"},
        9: {**whole, "etag": "0" * 32},
        10: {**whole, "key": "other"},
        11: {name: value for name, value in whole.items() if name != "etag"},
        13: {**whole, "start": 6, "compression": "deflate"},
        12: {**whole, "start": 0, "end": 2, "size": 2, "charset": "utf-16-le"},
    }
    answer = handler({"messages": [message(part, number) for number, part in parts.items()]})
    (group,) = answer["groups"]
    found = np.frombuffer(base64.b64decode(group["inputs"]["x"]["data"]), np.float32).reshape(-1, 4)
    texts = ["".join(map(chr, row.astype(int))) for row in found]
    assert texts == ["CDEF", "good", "H\nC-", "CDEF", "\u00e4\u0089\u0081-"]
    reasons = {answer["items"][each["index"]]["key"]: each["reason"] for each in answer["rejected"]}
    assert reasons == {
        "a.zip#4": "object is shorter than the item's range of bytes",
        "a.zip#5": "object has 1,998 bytes, at most 1,000 are read",
        "a.zip#6": "object has 2,000 bytes, at most 1,000 are read",
        "a.zip#7": "object is empty",
        "a.zip#8": "member is encrypted",
        "a.zip#10": "object no longer exists",
        "a.zip#13": "object has no bytes of the item, expected 4 once inflated",
    }
    assert not answer["failed"]
    assert not answer["retry"]
    assert len(answer["items"]) == 12  # the ninth was overwritten: it is left to its newer event
