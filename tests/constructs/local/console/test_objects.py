"""The console tells objects by their bytes, and serves each so that nothing in it runs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cdk_inference.local import LocalError
from cdk_inference.local.console.objects import MissingObjectError, content, key_of_upload

SAFE = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "text/plain; charset=utf-8"}
SAFE |= {"application/octet-stream"}


class Bucket:
    """S3 with one object."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get_object(self, *, IfMatch: str = "", **_: str) -> dict[str, Any]:  # noqa: N803
        if IfMatch == '"another"':
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "GetObject")
        return {"ContentLength": len(self._data), "Body": io.BytesIO(self._data)}


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (300, 300), "teal").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_pictures_are_told_by_their_bytes(kind: str) -> None:
    found = content(Bucket(picture(kind)), "inbox", "a.txt", "", whole=True)
    assert (found.kind, found.media_type) == ("picture", f"image/{kind.lower()}")
    assert found.data == picture(kind)


@given(
    st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from([b"<svg onload=alert(1)>", b"<script>", b"%PDF"]))
)
def test_whatever_it_is_its_type_runs_nothing(data: bytes) -> None:
    found = content(Bucket(data), "inbox", "a.html", "", whole=True)
    assert found.media_type in SAFE
    assert found.kind == {"image": "picture", "text/": "text", "appli": "other"}[found.media_type[:5]]
    if b"\0" not in data and found.kind == "other":
        with pytest.raises(UnicodeDecodeError):
            data.decode()


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_text_that_is_cut_through_a_character_is_a_text(before: str) -> None:
    data = (before + "\N{GRINNING FACE}" * 20_000).encode()
    found = content(Bucket(data), "inbox", "a.txt", "", whole=True)
    assert (found.kind, found.size, len(found.data)) == ("text", len(data), 2**16)


def test_an_object_that_was_overwritten_is_not_shown_for_the_one_before() -> None:
    with pytest.raises(MissingObjectError):
        content(Bucket(b"new"), "inbox", "a", "another", whole=False)


class Inbox:
    prefix = "photos/"


@pytest.mark.parametrize(
    ("name", "key"), [("a.jpg", "photos/a.jpg"), ("/a b.jpg", "photos/a b.jpg"), ("ä", "photos/ä")]
)
def test_files_are_uploaded_below_the_prefix(name: str, key: str) -> None:
    assert key_of_upload(Inbox(), name) == key


@pytest.mark.parametrize("name", ["", "a" * 1018, "ä" * 509, "a\0b"])
def test_a_name_that_makes_no_key_is_refused(name: str) -> None:
    with pytest.raises(LocalError, match="key must"):
        key_of_upload(Inbox(), name)
