from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.model.cache import cache_root, hash_folder

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3})?\.py", fullmatch=True)


def test_cache_root_is_the_one_that_was_chosen(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CDK_INFERENCE_CACHE")
    assert cache_root().name == "cdk-inference"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@given(first=st.dictionaries(NAMES, st.binary(max_size=4)), second=st.dictionaries(NAMES, st.binary(max_size=4)))
def test_hash_is_the_same_if_and_only_if_names_and_bytes_are(tmp_path_factory, first, second) -> None:
    one, two = (write(tmp_path_factory.mktemp("files"), files) for files in (first, second))
    assert (hash_folder(one) == hash_folder(two)) == (first == second)


def test_hash_ignores_place_time_mode_and_bytecode(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"a.py": b"1", "sub/b.jpg": b"2"})
    two = tmp_path / "elsewhere" / "two"
    shutil.copytree(one, two)
    os.utime(two / "a.py", (0, 0))
    (two / "a.py").chmod(0o600)
    write(two, {"__pycache__/a.pyc": b"3", "sub/__pycache__/b.pyc": b"4", ".DS_Store": b"5"})
    assert hash_folder(one) == hash_folder(two)
