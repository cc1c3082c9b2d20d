"""Zips are those that `zipfile` writes, whether their large files were deflated before or not."""

from __future__ import annotations

import io
import random
import stat
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from cdk_inference.bundling import zip_files
from cdk_inference.bundling.zip_files import write_zip
from cdk_inference.common.contents import mode_of
from cdk_inference.common.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGE = zip_files._LARGE
NOISE = random.Random(1)  # noqa: S311 - no secret


def contents() -> dict[str, bytes]:
    """Return files of all kinds: empty, small, at the limit, and large ones that deflate well or not at all."""
    return {
        "empty.py": b"",
        "small.py": b"import numpy\n" * 9,
        "below.bin": NOISE.randbytes(LARGE - 1),
        "at.bin": NOISE.randbytes(LARGE),
        "lib/zeros.so": bytes(9 * LARGE),
        "lib/Größe.so": b"".join(NOISE.randbytes(64) * 9 for _ in range(LARGE // 64)),
    }


def plain(files: Mapping[str, Path | bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | mode_of(content)) << 16
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=5)
    return written.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deflated")


def test_a_zip_is_the_same_the_first_time_and_later(store: Store, tmp_path: Path) -> None:
    files: dict[str, Path | bytes] = dict(contents())
    program = tmp_path / "program"
    program.write_bytes(bytes(2 * LARGE))
    program.chmod(0o755)
    files["bin/program"] = program
    for name in ("first.zip", "second.zip"):
        write_zip(tmp_path / name, files, store)
        assert (tmp_path / name).read_bytes() == plain(files)


def test_what_was_deflated_for_one_zip_is_not_deflated_for_another(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = contents()
    write_zip(tmp_path / "first.zip", files, store)
    monkeypatch.setattr(zlib, "compress", None)
    write_zip(tmp_path / "second.zip", {"elsewhere.so": files["lib/zeros.so"], "new.py": b""}, store)
    with zipfile.ZipFile(tmp_path / "second.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("elsewhere.so") == files["lib/zeros.so"]


def test_a_damaged_entry_is_made_again(store: Store, tmp_path: Path) -> None:
    files = {"a.bin": NOISE.randbytes(LARGE)}
    write_zip(tmp_path / "first.zip", files, store)
    (kept,) = (tmp_path / "deflated").glob("*/deflated")
    kept.write_bytes(kept.read_bytes()[:-9])
    write_zip(tmp_path / "second.zip", files, store)
    assert (tmp_path / "second.zip").read_bytes() == plain(files)
