"""Images without Docker: the tools of others read them, and the same files give the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.anywhere.oci.layers import write_layer
from cdk_inference.anywhere.oci.layout import Base, Image, Layout, read_base
from cdk_inference.errors import PropError
from tests.constructs.anywhere.tools import config, needs_skopeo, skopeo, unpacked

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"Env": {"A": "base", "PATH": "/usr/bin"}, "Labels": {"base": "1"}, "Cmd": ["sh"]}
OURS = {"Env": {"A": "ours", "B": "a=b"}, "Labels": {"ours": "1"}, "User": "65532:65532", "Cmd": []}

parts = st.text("abc é.-", min_size=1, max_size=70).filter(lambda part: part.strip(" .") == part)
trees = st.dictionaries(st.lists(parts, min_size=1, max_size=3).map("/".join), st.binary(max_size=99), max_size=6)


def is_tree(files: dict[str, bytes]) -> bool:
    return not any(other.startswith(f"{name}/") for name in files for other in files)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base for two architectures, as skopeo copies one."""
    folder = tmp_path_factory.mktemp("base")
    images = [
        Image(name, Base(), [("system", {"etc/os": name.encode()}), ("more", {"etc/more": b"1"})], SETTINGS)
        for name in ("amd64", "arm64")
    ]
    Layout(folder / "made").write(images)
    if shutil.which("skopeo") is None:
        return folder / "made"
    skopeo("copy", "--all", f"oci:{folder / 'made'}:latest", f"oci:{folder / 'copied'}")
    return folder / "copied"


def image(base: Path | None, architecture: str, files: dict[str, Path | bytes]) -> Image:
    found = Base() if base is None else read_base(base, architecture)
    return Image(architecture, found, [("application", files)], OURS)


@given(trees.filter(is_tree))
def test_a_layer_has_its_files_and_nothing_of_this_machine(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    one = write_layer(folder / "one", dict(files))
    other = write_layer(folder / "another name", dict(reversed(files.items())))
    assert (one.digest, one.diff_id) == (other.digest, other.diff_id)
    with tarfile.open(folder / "one") as archive:
        entries = archive.getmembers()
        found = {entry.name: archive.extractfile(entry).read() for entry in entries if entry.isfile()}  # type: ignore[union-attr]
    assert found == files
    assert all((entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "") for entry in entries)
    seen: set[str] = set()
    for entry in entries:  # a folder comes before what is in it
        assert entry.name.rpartition("/")[0] in seen | {""}
        seen.add(entry.name)


@needs_skopeo
def test_others_read_the_image_on_top_of_its_base(base: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh")
    program.chmod(0o700)
    files: dict[str, Path | bytes] = {"srv/app/a.txt": b"a", "srv/app/program": program}
    digest = Layout(tmp_path / "image").write([image(base, name, files) for name in ("amd64", "arm64")])

    assert json.loads(skopeo("inspect", "--raw", f"oci:{tmp_path / 'image'}:latest"))["manifests"][1]["platform"] == {
        "architecture": "arm64",
        "os": "linux",
    }
    for name in ("amd64", "arm64"):
        found = config(tmp_path / "image", name)
        assert (found["architecture"], found["config"]["User"]) == (name, "65532:65532")
        assert found["config"]["Env"] == ["A=ours", "PATH=/usr/bin", "B=a=b"]
        assert found["config"]["Labels"] == {"base": "1", "ours": "1"}
        assert not found["config"].get("Cmd")
        assert len(found["rootfs"]["diff_ids"]) == len(found["history"]) == 3
    skopeo("copy", "--all", f"oci:{tmp_path / 'image'}:latest", f"dir:{tmp_path / 'everything'}")

    one = tmp_path / "one"
    Layout(one).write([image(base, "arm64", files)])
    root = unpacked(one, tmp_path / "bundle")
    assert (root / "etc" / "os").read_bytes() == b"arm64"
    assert (root / "etc" / "more").read_bytes() == b"1"
    assert oct((root / "srv" / "app" / "program").stat().st_mode & 0o777) == "0o755"
    assert oct((root / "srv" / "app" / "a.txt").stat().st_mode & 0o777) == "0o644"

    program.touch()
    umask = os.umask(0o077)
    try:
        again = Layout(tmp_path / "image").write([image(base, name, files) for name in ("amd64", "arm64")])
    finally:
        os.umask(umask)
    assert again == digest


def test_a_base_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PropError, match="base must be a folder with an OCI layout"):
        read_base(tmp_path, "amd64")
    with pytest.raises(PropError, match="one image for linux/riscv64, got 0"):
        read_base(base, "riscv64")
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    manifest = read_base(damaged, "arm64")
    path = damaged / "blobs" / "sha256" / manifest.layers[0]["digest"].removeprefix("sha256:")
    path.write_bytes(b"other bytes")
    with pytest.raises(PropError, match="got none or a damaged one"):
        read_base(damaged, "arm64")


def test_a_folder_of_others_is_never_replaced_and_a_failure_leaves_the_old_layout(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(PropError, match="output must be a new folder or an OCI layout"):
        Layout(mine)
    (tmp_path / "file").write_text("")
    with pytest.raises(PropError, match="output must be"):
        Layout(tmp_path / "file")
    layout = tmp_path / "layout"
    Layout(layout).write([image(None, "amd64", {"a": b"1"})])
    before = (layout / "index.json").read_bytes()
    with pytest.raises(FileNotFoundError):
        Layout(layout).write([image(None, "amd64", {"a": tmp_path / "absent"})])
    assert (layout / "index.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file", "layout"}
