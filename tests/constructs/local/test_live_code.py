"""New modules in packages of functions, and the files of a project that count."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.local.aws import ACCOUNT, REGION
from cdk_inference.local.live_code import checksums, deployed_functions, with_modules
from cdk_inference.local.source_files import changed, folders, scan
from cdk_inference.local.stacks import Resource

if TYPE_CHECKING:
    from pathlib import Path

GONE = {"Fn::GetAtt": ["Gone", "Version"]}
CACHED = f"__pycache__/{{}}.{sys.implementation.cache_tag}.pyc"
MODULES = st.dictionaries(
    st.sampled_from(["a.py", "b.py", "folder/a.py", "folder/deeper/c.py"]),
    st.text("abc123\n#é\x1f", max_size=40).map(lambda text: f"# {text!r}".encode()),
    min_size=1,
)


def package(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


@given(MODULES, st.data())
def test_only_the_modules_that_are_new_differ(files: dict[str, bytes], data: st.DataObject) -> None:
    files |= {"data.json": b"{}", "library.so": bytes(range(256))}
    names = st.sampled_from(sorted(name for name in files if name.endswith(".py")))
    new = data.draw(st.dictionaries(names, st.text("xyz", min_size=1).map(str.encode)))
    twice = with_modules(with_modules(package(files), new), new)
    assert unpacked(twice) == files | new
    assert checksums(twice) == {n: (crc32(c), len(c)) for n, c in (files | new).items() if n.endswith(".py")}


def test_bytecode_is_that_of_the_new_module(tmp_path: Path) -> None:
    old = {"stage.py": b"SAID = 'old'\n", CACHED.format("stage"): b"what Python would take unchecked", "plain.py": b""}
    files = unpacked(with_modules(package(old), {"stage.py": b"SAID = 'new'\n", "plain.py": b"#"}))
    assert files.keys() == old.keys()
    files["stage.py"] = b"SAID = 'not looked at'\n"
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", "import stage; print(stage.SAID)"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "new\n"


def test_what_tools_and_editors_write_does_not_count(tmp_path: Path) -> None:
    for name in ("app.py", "stages/a.py", "stages/data.csv", "labels.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = scan(tmp_path)
    assert sorted(before) == ["app.py", "labels.txt", "stages/a.py", "stages/data.csv"]
    left_out = (".git/HEAD", "env/pyvenv.cfg", "env/lib/x.py", "cdk.out/manifest.json", "node_modules/x/index.js")
    unseen = ("__pycache__/a.pyc", "a.py~", ".a.py.swp", "4913", "recipe.lock.json", "cdk.context.json", "README.md")
    for name in (*left_out, *unseen, "x.egg-info/PKG-INFO"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "dangling.py").symlink_to("nowhere")
    assert scan(tmp_path) == before
    assert {path.relative_to(tmp_path).as_posix() for path in folders(tmp_path)} == {".", "stages"}


def test_new_gone_and_different_files_have_changed(tmp_path: Path) -> None:
    for name in ("same.py", "gone.py", "different.py", "touched.py"):
        (tmp_path / name).write_text("1")
    before = scan(tmp_path)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "different.py").write_text("22")
    (tmp_path / "new.py").write_text("1")
    os.utime(tmp_path / "touched.py", ns=(0, 0))
    assert changed(before, scan(tmp_path)) == {"gone.py", "different.py", "new.py", "touched.py"}


def test_functions_whose_packages_are_no_assets_are_left_alone() -> None:
    bucket = {"Fn::Sub": "assets-${AWS::AccountId}-${AWS::Region}"}
    codes = {
        "Asset": {"S3Bucket": bucket, "S3Key": "1.zip"},
        "Own": {"S3Bucket": "mine", "S3Key": "2.zip"},
        "Parameter": {"S3Bucket": {"Ref": "Bucket"}, "S3Key": "3.zip"},
        "Other": {"S3Bucket": {"Fn::Sub": "${Bucket}"}, "S3Key": "4.zip"},
        "Joined": {"S3Bucket": "mine", "S3Key": {"Fn::Join": ["", []]}},
        "Inline": {"ZipFile": "pass"},
        "Image": {"ImageUri": "image"},
    }
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:asset"
    versions = {"live": {"Fn::GetAtt": ["V", "Version"]}, "fixed": "3", "odd": {"Ref": "Number"}, "gone": GONE}
    resources = [
        *(Resource("S", n, n.lower(), "AWS::Lambda::Function", {"Code": code}) for n, code in codes.items()),
        *(
            Resource("S", n, f"{arn}:{n}", "AWS::Lambda::Alias", {"FunctionVersion": version})
            for n, version in versions.items()
        ),
        Resource("S", "V", f"{arn}:7", "AWS::Lambda::Version"),
        Resource("S", "Queue", "queue", "AWS::SQS::Queue"),
    ]
    asset, own = deployed_functions(resources)
    assert (asset.label, asset.package, asset.aliases) == (
        "Asset",
        (f"assets-{ACCOUNT}-{REGION}", "1.zip"),
        {"live": "7", "fixed": "3"},
    )
    assert (own.package, own.aliases) == (("mine", "2.zip"), {})
