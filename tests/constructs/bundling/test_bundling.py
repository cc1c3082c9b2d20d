from __future__ import annotations

import os
import shutil
import stat
import string
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk.assertions import Annotations, Match, Template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.waiting import PATIENCE, wait_until

from cdk_inference.bundling import bundle as bundling
from cdk_inference.bundling.bundle import WheelPart, bundle, files_zip
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.bundling.wheels import Requirements
from cdk_inference.common import contents
from cdk_inference.common.cache import hash_file
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.errors import PropError

PLATFORM = LambdaPlatform("3.14", "arm64")


def pack(stack, requirements=(), sources=None, platform=PLATFORM):
    return bundle(stack, name="Detect", requirements=requirements, sources=sources or {}, platform=platform)


def names(bundled) -> list[str]:
    """Return the names in the zip, without bytecode, which only some machines can make; see test_bytecode."""
    with zipfile.ZipFile(bundled.zip_path) as archive:
        return [name for name in archive.namelist() if not name.endswith(".pyc")]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# --- what is in the zip -------------------------------------------------------------------------------------------


def test_sources_and_wheels_lie_where_python_finds_them(stack, wheel, tmp_path) -> None:
    wheel("alpha", "1.0", {"alpha/__init__.py": "NAME = 'alpha'\n"}, requires=("beta",))
    wheel("beta", "2.0", {"beta.py": "NAME = 'beta'\n"})
    user = write(tmp_path / "user", {"detect.py": b"import alpha\n", "data/labels.txt": b"cat\n"})
    bundled = pack(stack, ["alpha==1.0", "beta==2.0"], {".": user, "model/labels.txt": user / "data" / "labels.txt"})
    program = (
        "import detect, alpha, beta, importlib.metadata as m; print(alpha.NAME, beta.NAME, m.version('alpha'), "
        "[d.metadata['Name'] for d in m.distributions() if d.name in ('alpha', 'beta')])"
    )
    environment = {"PYTHONPATH": str(bundled.zip_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "alpha beta 1.0 ['alpha', 'beta']\n"
    assert {"detect.py", "data/labels.txt", "model/labels.txt"} <= set(names(bundled))


def test_installer_files_scripts_caches_and_tests_stay_out(stack, wheel, tmp_path) -> None:
    wheel(
        "alpha",
        "1.0",
        {
            "alpha/__init__.py": "",
            "alpha/__init__.pyi": "",
            "alpha/tests/test_it.py": "",
            "alpha/tests/conftest.py": "",
            "alpha/tests/helper.py": "",  # astropy, for one, imports such a module at run time
            "alpha/test_utils.py": "",
            "alpha-1.0.dist-info/entry_points.txt": "[console_scripts]\nalpha = alpha:main\n",
            "alpha-1.0.dist-info/licenses/LICENSE": "",
        },
    )
    user = write(tmp_path / "user", {"detect.py": b"", "__pycache__/detect.cpython-314.pyc": b"", ".git/HEAD": b""})
    write(
        user, {"cdk.out/asset.zip": b"", "output/cdk.out": b"", "output/asset.zip": b"", "node_modules/cdk/a.js": b""}
    )
    assert names(pack(stack, ["alpha==1.0"], {"code": user})) == [
        "alpha-1.0.dist-info/METADATA",
        "alpha-1.0.dist-info/WHEEL",
        "alpha-1.0.dist-info/entry_points.txt",
        "alpha-1.0.dist-info/licenses/LICENSE",
        "alpha/__init__.py",
        "alpha/test_utils.py",
        "alpha/tests/helper.py",
        "code/detect.py",
    ]


def test_modes_let_lambdas_user_read_and_run(stack, tmp_path) -> None:
    user = write(tmp_path / "user", {"detect.py": b"", "tool": b"#!/bin/sh\n"})
    (user / "detect.py").chmod(0o600)
    (user / "tool").chmod(0o700)
    with zipfile.ZipFile(pack(stack, [], {".": user}).zip_path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.filename.endswith(".pyc")]
    modes = {entry.filename: entry.external_attr >> 16 for entry in entries}
    assert modes == {"detect.py": stat.S_IFREG | 0o644, "tool": stat.S_IFREG | 0o755}


def test_generated_files_are_like_those_on_disk(stack, tmp_path, capfd) -> None:
    options = b'{"fields": ["a"]}'
    user = write(tmp_path / "user", {"detect.py": b""})
    generated = pack(stack, [], {".": user, "config/options.json": options})
    written = pack(stack, [], {".": user, "config": write(tmp_path / "config", {"options.json": options})})
    assert names(generated) == ["config/options.json", "detect.py"]
    assert generated == written
    assert capfd.readouterr().err.count("bundling Detect") == 1
    assert pack(stack, [], {".": user, "config/options.json": b"{}"}).asset_hash != generated.asset_hash


def test_excluded_requirements_stay_out(stack, wheel, capfd) -> None:
    # There is no wheel of beta and delta.
    wheel("alpha", "1.0", {"alpha.py": ""}, requires=("beta>=2", "gamma"))
    wheel("gamma", "3.0", {"gamma.py": ""}, requires=("Delta",))
    options = {"name": "Detect", "requirements": ["alpha==1.0", "gamma==3.0"], "sources": {}, "platform": PLATFORM}
    bundled = bundle(stack, **options, excluded=["beta", "delta"])
    assert {name for name in names(bundled) if name.endswith(".py")} == {"alpha.py", "gamma.py"}
    assert bundle(stack, **options, excluded=["delta", "beta"]) == bundled
    assert capfd.readouterr().err.count("bundling Detect") == 1
    with pytest.raises(PropError, match=r"beta|delta"):
        bundle(stack, **options)


def test_links_are_followed(stack, tmp_path) -> None:
    shared = write(tmp_path / "shared", {"common.py": b"A = 1\n"})
    user = write(tmp_path / "user", {"detect.py": b""})
    (user / "lib").symlink_to(shared)
    (user / "again.py").symlink_to("detect.py")
    bundled = pack(stack, [], {".": user})
    assert names(bundled) == ["again.py", "detect.py", "lib/common.py"]
    with zipfile.ZipFile(bundled.zip_path) as archive:
        assert archive.read("lib/common.py") == b"A = 1\n"


def test_part_of_a_wheel_comes_without_what_the_wheel_requires(stack, wheel, tmp_path) -> None:
    wheel(
        "alpha",
        "1.0",
        {
            "alpha/__init__.py": "",
            "alpha/lib/libalpha.so.1.0": "",
            "alpha/LICENSE": "",
            "alpha-1.0.dist-info/licenses/NOTICE": "",
            "alpha-1.0.dist-info/entry_points.txt": "[console_scripts]\nalpha = alpha:main\n",
        },
        requires=("gone",),
    )
    wheel("beta", "2.0", {"beta.py": ""})
    pins = write(tmp_path, {"alpha.txt": b"alpha==1.0\n"}) / "alpha.txt"

    def pack_part(*kept: str, requirements=("beta==2.0",)):
        part = WheelPart(pins, kept)
        return bundle(stack, name="Detect", requirements=requirements, sources={}, platform=PLATFORM, parts=[part])

    library = pack_part("alpha/lib/*.so.*")
    assert names(library) == [
        "alpha-1.0.dist-info/METADATA",
        "alpha-1.0.dist-info/WHEEL",
        "alpha-1.0.dist-info/licenses/NOTICE",
        "alpha/lib/libalpha.so.1.0",
        "beta-2.0.dist-info/METADATA",
        "beta-2.0.dist-info/WHEEL",
        "beta.py",
    ]
    assert "alpha/LICENSE" in names(pack_part("alpha/lib/*.so.*", "alpha/LICENSE"))
    with pytest.raises(
        PropError, match=r"alpha==1\.0 must have the file 'alpha/lib/\*\.dylib' for aarch64-manylinux_2_34, .* got none"
    ):
        pack_part("alpha/lib/*.dylib")
    wheel("alpha", "1.1", {"alpha/__init__.py": ""})
    with pytest.raises(PropError, match=r"Detect must include alpha==1\.0, .* got alpha==1\.1; require alpha==1\.0"):
        pack_part("alpha/lib/*.so.*", requirements=("alpha==1.1",))


def test_files_alone_depend_on_nothing_else(stack, tmp_path, capfd) -> None:
    model = write(tmp_path / "model", {"model.onnx": b"\x08", "manifest.json": b"{}", "json.py": b""})
    first = files_zip(stack, name="Model", sources={"python/model": model})
    with zipfile.ZipFile(first.zip_path) as archive:
        assert archive.namelist() == ["python/model/json.py", "python/model/manifest.json", "python/model/model.onnx"]
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert files_zip(stack, name="Layer", sources={"python/model": copy}) == first
    assert capfd.readouterr().err == "bundling Model\n"
    write(model, {"model.onnx": b"\x09"})
    assert files_zip(stack, name="Model", sources={"python/model": model}).asset_hash != first.asset_hash


def test_files_larger_than_lambda_takes_fails(stack, tmp_path) -> None:
    model = write(tmp_path / "model", {"model.onnx": b""})
    os.truncate(model / "model.onnx", 270_000_000)
    with pytest.raises(PropError, match="Model must be at most 262 MB unpacked, got 270 MB"):
        files_zip(stack, name="Model", sources={"model": model})


# --- hashes ----------------------------------------------------------------------------------------------------


def hashed(folder: Path, *wheels: Path) -> Path:
    """Write a requirements file, as uv does it, with the hashes of wheels."""
    lines = [
        f"{path.name.split('-')[0]}=={path.name.split('-')[1]} \\\n    --hash=sha256:{hash_file(path)}\n"
        for path in wheels
    ]
    return write(folder, {"hashed.txt": "".join(lines).encode()}) / "hashed.txt"


def tamper(path: Path) -> None:
    """Put a module into a wheel, as whoever has taken over an index may."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("alpha_stealer.py", "")


@pytest.mark.parametrize("others", [(), ("beta==2.0",)], ids=["all have hashes", "another has none"])
@pytest.mark.parametrize("cached", [False, True], ids=["new to uv", "in uv's cache"])
def test_a_tampered_wheel_fails(stack, wheel, tmp_path, others, cached) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""})
    wheel("beta", "2.0", {"beta.py": ""})
    file = hashed(tmp_path, path)
    tamper(path)
    if cached:
        assert "alpha_stealer.py" in names(pack(stack, ["alpha==1.0"]))
    message = (
        r"requirements of Detect: 'alpha==1\.0' cannot be bundled .*[Hh]ash mismatch.*"
        "the index serves another file than the one that was pinned"
    )
    with pytest.raises(PropError, match=message):
        pack(stack, [file, *others])


def test_a_tampered_part_of_a_wheel_fails(stack, wheel, tmp_path) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""})
    part = WheelPart(hashed(tmp_path, path), ("alpha.py",))
    tamper(path)
    with pytest.raises(PropError, match=r"'alpha==1\.0' cannot .*another file than the one that was pinned"):
        bundle(stack, name="Detect", requirements=[], sources={}, platform=PLATFORM, parts=[part])


def test_hashes_change_nothing_in_the_zip(stack, wheel, tmp_path) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""}, requires=("gone",))
    other = wheel("beta", "2.0", {"beta.py": ""})
    options = {"name": "Detect", "sources": {}, "platform": PLATFORM, "excluded": ["gone"]}
    with_hashes = bundle(stack, requirements=hashed(tmp_path, path, other), **options)
    without = bundle(stack, requirements=["alpha==1.0", "beta==2.0"], **options)
    assert with_hashes.asset_hash == without.asset_hash
    assert with_hashes.zip_path.read_bytes() == without.zip_path.read_bytes()


def test_requirements_without_hashes_are_installed_beside_those_with(stack, wheel, tmp_path) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""})
    wheel("beta", "2.0", {"beta.py": ""}, requires=("alpha", "gamma"))
    wheel("gamma", "3.0", {"gamma.py": ""})
    bundled = pack(stack, [hashed(tmp_path, path), "beta==2.0", "gamma==3.0", "alpha==1.0"])
    assert {"alpha.py", "beta.py", "gamma.py"} < set(names(bundled))


def test_a_package_without_a_hash_fails_where_all_requirements_have_one(stack, wheel, tmp_path) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""}, requires=("beta",))
    wheel("beta", "2.0", {"beta.py": ""})
    with pytest.raises(PropError, match=r"`beta`; write the hashes of what it requires too, or leave all hashes out"):
        pack(stack, hashed(tmp_path, path))


# --- reproducible -------------------------------------------------------------------------------------------------

FILES = st.dictionaries(
    st.text(string.ascii_letters + string.digits + "_ é-", min_size=1, max_size=12).map(lambda name: f"{name}.py"),
    st.binary(max_size=300),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    files=FILES, times=st.lists(st.integers(0, 2_000_000_000), min_size=6, max_size=6), mask=st.sampled_from([0, 0o77])
)
def test_neither_folder_order_clock_nor_umask_enter(files, times, mask, stack, monkeypatch, tmp_path_factory) -> None:
    made = []
    for order, umask in ((1, 0o22), (-1, mask)):
        folder = tmp_path_factory.mktemp("x" * (order + 2))
        monkeypatch.setenv("CDK_INFERENCE_CACHE", str(folder / "cache"))
        before = os.umask(umask)
        try:
            write(folder / "user", dict(list(files.items())[::order]))
        finally:
            os.umask(before)
        for time, path in zip(times[::order], (folder / "user").iterdir(), strict=False):
            os.utime(path, (time, time))
        made.append(pack(stack, [], {"code": folder / "user"}))
    assert made[0].zip_path != made[1].zip_path
    assert made[0].asset_hash == made[1].asset_hash
    assert made[0].zip_path.read_bytes() == made[1].zip_path.read_bytes()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(one=FILES, other=FILES)
def test_other_content_has_another_hash(one, other, stack, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("content")
    hashes = [
        pack(stack, [], {"code": write(folder / name, files)}).asset_hash for name, files in (("a", one), ("b", other))
    ]
    assert (hashes[0] == hashes[1]) == (one == other)


# Differences between developers' machines and CI that must not matter.
PROGRAM = """
import os, sys
from pathlib import Path
from aws_cdk import App, Stack
from cdk_inference.bundling.bundle import bundle
from cdk_inference.common.platform import LambdaPlatform
os.umask(int(sys.argv[1], 8))
bundled = bundle(
    Stack(App(), "S"), name="Detect", requirements=sys.argv[3:], sources={"code": Path(sys.argv[2])},
    # Of this interpreter's version, so that there is bytecode.
    platform=LambdaPlatform(f"3.{sys.version_info.minor}", "arm64", wheels="aarch64-manylinux_2_34"),
)
print(bundled.asset_hash, bundled.zip_path)
"""
REAL = ["markupsafe==3.0.3", "jinja2==3.1.6", "six==1.17.0"]  # compiled, with a dependency, a single module


@pytest.mark.slow
def test_real_wheels_give_the_same_bytes_in_another_process(tmp_path) -> None:
    zips = []
    for index, (umask, seed) in enumerate([("022", "1"), ("077", "2")]):
        folder = write(tmp_path / (f"{index}" * (index + 1)), {"detect.py": b"import jinja2\n"})
        os.utime(folder / "detect.py", (index * 1e9, index * 1e9))
        environment = os.environ | {
            "CDK_INFERENCE_CACHE": str(folder / "cache"),
            "UV_CACHE_DIR": str(folder / "uv"),
            "PYTHONHASHSEED": seed,
            "TZ": f"UTC{index * 5:+}",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, umask, folder / "detect.py", *REAL],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        zips.append(done.stdout.split())
    assert zips[0][0] == zips[1][0]
    assert Path(zips[0][1]).read_bytes() == Path(zips[1][1]).read_bytes()
    with zipfile.ZipFile(zips[0][1]) as archive:
        assert f"jinja2/__pycache__/loaders.{sys.implementation.cache_tag}.pyc" in archive.namelist()


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "machine"), [("arm64", 183), ("x86_64", 62)])
def test_compiled_wheels_are_those_of_the_target(stack, architecture, machine) -> None:
    bundled = pack(stack, ["markupsafe==3.0.3"], platform=LambdaPlatform("3.14", architecture))
    (library,) = (name for name in names(bundled) if name.endswith(".so"))
    assert "cpython-314" in library
    with zipfile.ZipFile(bundled.zip_path) as archive:
        header = archive.read(library)[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == machine


def test_template_names_the_asset_by_its_content(wheel, tmp_path) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""})
    keys = []
    for name in ("one", "two"):
        user = write(tmp_path / name, {"detect.py": b"def handler(event, context): ..."})
        stack = Stack(App(outdir=str(tmp_path / f"{name}.out")), "Stack")
        bundled = pack(stack, ["alpha==1.0"], {".": user})
        lambda_.Function(stack, "Detect", code=bundled.code(), handler="detect.handler", runtime=PLATFORM.runtime)
        (function,) = Template.from_stack(stack).find_resources("AWS::Lambda::Function").values()
        keys.append(function["Properties"]["Code"]["S3Key"])
        staged = tmp_path / f"{name}.out" / f"asset.{keys[-1]}"
        assert staged.read_bytes() == bundled.zip_path.read_bytes()
    assert keys[0] == keys[1]


# --- the cache ----------------------------------------------------------------------------------------------------


def test_unchanged_inputs_are_not_bundled_again(stack, wheel, tmp_path, monkeypatch, capfd) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""})
    user = write(tmp_path / "user", {"detect.py": b""})
    first = pack(stack, ["alpha==1.0"], {".": user})
    assert capfd.readouterr().err.endswith("bundling Detect for Python 3.14 on arm64\n")
    path.unlink()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))  # now uv would find nothing
    assert pack(stack, ["alpha==1.0"], {".": user}) == first
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("change", ["source", "mode", "requirement", "included file", "local wheel", "platform"])
def test_changed_input_is_bundled_again(stack, wheel, tmp_path, capfd, change) -> None:
    wheel("alpha", "1.0", {"alpha.py": "A = 1\n"})
    wheel("alpha", "1.1", {"alpha.py": "A = 2\n"})
    local = wheel("beta", "1.0", {"beta.py": "B = 1\n"})
    user = write(tmp_path / "user", {"detect.py": b""})
    write(tmp_path, {"requirements.txt": b"-r more.txt\n", "more.txt": b"alpha==1.0\n"})
    arguments = {"requirements": [str(local), tmp_path / "requirements.txt"], "sources": {".": user}}
    first = pack(stack, **arguments)
    if change == "source":
        write(user, {"detect.py": b"# changed"})
    elif change == "mode":
        (user / "detect.py").chmod(0o755)
    elif change == "requirement":
        arguments["requirements"] = [str(local), "alpha==1.1"]
    elif change == "included file":
        write(tmp_path, {"more.txt": b"alpha==1.1\n"})
    elif change == "local wheel":
        wheel("beta", "1.0", {"beta.py": "B = 2\n"})
    second = pack(stack, **arguments, platform=LambdaPlatform("3.14", "x86_64") if change == "platform" else PLATFORM)
    assert capfd.readouterr().err.count("bundling Detect") == 2
    # The same pure Python runs on every architecture: only its own content names an asset.
    assert (second.asset_hash == first.asset_hash) == (change == "platform")


def test_known_zips_are_not_read_again(stack, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", 0)
    user = write(tmp_path / "user", {"detect.py": b"A = 1\n" * 50})
    first = pack(stack, [], {".": user})
    pack(stack, [], {".": user})  # reads it, and notes size and date
    os.truncate(first.zip_path, 0)
    read: list[Path] = []
    monkeypatch.setattr(bundling, "hash_file", lambda path: read.append(path) or hash_file(path))
    assert pack(stack, [], {".": user}) == first  # another size: made again
    assert first.zip_path in read
    assert pack(stack, [], {".": user}) == first
    read.clear()
    assert pack(stack, [], {".": user}) == first
    assert first.zip_path not in read
    os.utime(first.zip_path, (1, 1))  # copied, say
    assert pack(stack, [], {".": user}) == first
    assert read == [first.zip_path]
    assert capfd.readouterr().err.count("bundling Detect") == 2


def test_changed_source_is_seen_at_once(stack, tmp_path) -> None:
    user = write(tmp_path / "user", {"detect.py": b"A = 1\n"})
    hashes = set()
    for value in range(20):  # of one size, and maybe of one date
        write(user, {"detect.py": b"A = %d\n" % (value % 10)})
        hashes.add(pack(stack, [], {".": user}).asset_hash)
    assert len(hashes) == 10


@pytest.mark.parametrize("damage", ["truncated zip", "flipped byte", "no zip", "truncated record", "no record"])
def test_damaged_bundle_is_made_again(stack, tmp_path, capfd, damage) -> None:
    user = write(tmp_path / "user", {"detect.py": b"A = 1\n" * 50})
    first = pack(stack, [], {".": user})
    whole = first.zip_path.read_bytes()
    record = first.zip_path.with_name("bundle.json")
    if damage == "truncated zip":
        os.truncate(first.zip_path, len(whole) // 2)
    elif damage == "flipped byte":
        first.zip_path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    elif damage == "no zip":
        first.zip_path.unlink()
    elif damage == "truncated record":
        os.truncate(record, 20)
    else:
        record.unlink()
    for _ in range(2):
        assert pack(stack, [], {".": user}) == first
        assert first.zip_path.read_bytes() == whole
    assert capfd.readouterr().err.count("bundling Detect") == 2


def run(tmp_path: Path, cache: Path, *requirements: str) -> subprocess.Popen[str]:
    source = write(tmp_path / "user", {"detect.py": b""}) / "detect.py"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "022", source, *requirements],
        env=os.environ | {"CDK_INFERENCE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_synths_at_once_bundle_once(tmp_path, cache) -> None:
    results = [process.communicate(timeout=PATIENCE) for process in [run(tmp_path, cache, *REAL) for _ in range(2)]]
    assert results[0][0] == results[1][0] != ""
    assert sum(errors.count("bundling Detect") for _, errors in results) == 1


@pytest.mark.slow
def test_interrupted_bundling_is_started_again(tmp_path, cache) -> None:
    requirements = ["numpy==2.4.6"]  # large enough to be caught at it
    with run(tmp_path, cache, *requirements) as process:
        wait_until(lambda: process.poll() is not None or list(cache.glob("bundles/*.partial/wheels/numpy")))
        assert process.poll() is None, process.communicate()
        process.kill()
    (partial,) = cache.glob("bundles/*.partial")
    assert not partial.with_suffix("").exists()
    output, errors = run(tmp_path, cache, *requirements).communicate(timeout=PATIENCE)
    assert "bundling Detect" in errors
    assert zipfile.ZipFile(output.split()[1]).testzip() is None
    assert not partial.exists()


def test_bundling_that_fails_leaves_nothing_behind(stack, wheel, cache) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""})
    for _ in range(2):
        with pytest.raises(PropError, match=r"alpha==2\.0"):
            pack(stack, ["alpha==2.0"])
    assert [path.suffix for path in cache.glob("bundles/*")] == [".lock"]


def test_stack_that_is_not_selected_is_not_bundled(cache) -> None:
    app = App(context={"aws:cdk:bundling-stacks": ["Other"]})
    skipped = pack(Stack(app, "Stack"), ["there-is-no-such-package==1.0"], {".": Path("nowhere")})
    assert skipped == pack(Stack(app, "Another"))
    assert zipfile.ZipFile(skipped.zip_path).testzip() is None
    assert skipped.zip_path.stat().st_size < 500
    with pytest.raises(PropError):
        pack(Stack(app, "Other"), [], {".": Path("nowhere")})


# --- what the user gets wrong -------------------------------------------------------------------------------------


def test_open_versions_give_a_warning_that_pins_them(stack, wheel) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""}, requires=("beta",))
    wheel("beta", "2.0", {"beta.py": ""})
    for _ in range(2):  # the second is from the cache
        pack(stack, ["Alpha[fast]==1.0 ; python_version >= '3.11'"])
        Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp(r"Detect leave .*\(beta==2\.0\)"))
    assert Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("alpha==")) == []


@pytest.mark.parametrize("requirement", ["alpha", "alpha>=1.0", "alpha==1.*", "alpha>=1,<2", "alpha~=1.0", "alpha!=3"])
def test_requirement_with_an_open_version_gets_a_warning(stack, wheel, requirement) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""})
    pack(stack, [requirement])
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp(r"\(alpha==1\.0\)"))


def test_pinned_requirements_get_no_warning(stack, wheel, tmp_path) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""}, requires=("beta_b",))
    wheel("beta_b", "2.0", {"beta.py": ""})
    local = wheel("gamma", "1.0", {"gamma.py": ""})
    write(tmp_path, {"requirements.txt": b"alpha==1.0  # why\n-c pins.txt\n", "pins.txt": b"Beta.B===2.0\n"})
    pack(stack, [tmp_path / "requirements.txt", f"gamma @ {local.as_uri()}"])
    Annotations.from_stack(stack).has_no_warning("*", Match.string_like_regexp("leave versions open"))


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("import gone\nimport alpha.more, beta\nfrom other.part import x", "gone, other"),
        ("import alpha, json, boto3, inference_runtime, helper, folder.more\nfrom botocore import config", ""),
        ("try:\n    import gone\nexcept ImportError:\n    gone = None\nif 0:\n    import other", ""),
        ("def f():\n    import gone\nfrom . import sibling", ""),
    ],
    ids=["missing", "there", "caught", "later"],
)
def test_an_import_that_the_function_does_not_have_gets_a_warning(stack, wheel, tmp_path, code, missing) -> None:
    wheel("alpha", "1.0", {"alpha/__init__.py": "", "alpha/more.py": "", "beta.cpython-314-aarch64-linux-gnu.so": ""})
    user = write(
        tmp_path / "user",
        {"own.py": code.encode(), "helper.py": b"", "folder/more.py": b"import gone_from_a_folder", "bad.py": b"def"},
    )
    package = ZipPackage(
        handler="own.f",
        requirements=("alpha==1.0",),
        sources={path.name: path for path in user.iterdir()},
    )
    package.bundled(stack, name="Own", platform=PLATFORM)
    found = Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("does not have"))
    said = [str(each.entry.data).partition(" [ack")[0] for each in found]
    expected = f"own.py imports {missing}, which its function does not have, so that it cannot start; "
    assert said == ([f"{expected}add what is missing to requirements or sources of the stage"] if missing else [])


def test_requirement_without_a_wheel_for_the_platform_fails(stack, wheel) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""}, tag="cp314-cp314-manylinux_2_17_x86_64")
    wheel("beta", "1.0", {"beta.py": ""})
    with pytest.raises(PropError) as raised:
        pack(stack, ["beta==1.0", "alpha==1.0"])
    message = str(raised.value)
    assert message.startswith(
        "requirements of Detect: 'alpha==1.0' cannot be bundled for Python 3.14 on arm64 (aarch64-manylinux_2_34): "
    )
    assert "has no wheels with a matching platform tag" in message
    assert message.endswith("; require a version that has a wheel for this platform, or choose another LambdaPlatform")
    assert "\n" not in message
    assert "beta==1.0" not in message


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        (["there-is-none==1.0"], "'there-is-none==1.0' cannot be bundled .* correct the requirement"),
        (["alpha==1.0", "alpha==1.1"], "'alpha==1.0', 'alpha==1.1' cannot .* drop one of them"),
        (["alpha=1.0"], "'alpha=1.0' cannot .* no such comparison operator"),
        ([Path("nowhere.txt")], "requirements file 'nowhere.txt' cannot be read: No such file"),
    ],
)
def test_wrong_requirement_fails(stack, wheel, requirements, message) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""})
    wheel("alpha", "1.1", {"alpha.py": ""})
    with pytest.raises(PropError, match=message):
        pack(stack, requirements)


def test_folder_as_requirement_fails(stack, wheel, tmp_path) -> None:
    write(tmp_path / "lib", {"pyproject.toml": b"[project]\nname='lib'\nversion='1'\n"})
    with pytest.raises(PropError, match="build a wheel of it first, or give the folder as source code"):
        pack(stack, [str(tmp_path / "lib")])


@pytest.mark.parametrize("option", ["-e {}", "  --editable {}", "--editable={}", "-e ."])
@pytest.mark.parametrize("in_file", [False, True])
def test_an_editable_requirement_fails_and_runs_nothing(stack, tmp_path, monkeypatch, option, in_file) -> None:
    program = "from setuptools import setup; open('ran', 'w').close(); setup(name='alpha', version='1.0')"
    folder = write(tmp_path / "alpha", {"setup.py": program.encode()})
    monkeypatch.chdir(folder)
    line = option.format(folder)
    file = tmp_path / "requirements.txt"
    file.write_text(f"{line}\n")
    with pytest.raises(PropError, match=r"requirements must not be editable, got '(-e|--editable)"):
        pack(stack, file if in_file else [line])
    assert not (folder / "ran").exists()


def test_unreachable_index_fails(stack, monkeypatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(PropError, match=r"127\.0\.0\.1:1/simple/alpha.*; check the connection and the package index"):
        pack(stack, ["alpha==1.0"])


@pytest.mark.parametrize("how", ["environment", "file"])
def test_index_configured_for_pip_alone_is_used(stack, wheel, tmp_path, monkeypatch, how) -> None:
    path = wheel("alpha", "1.0", {"alpha.py": ""})
    folder = write(tmp_path / "simple", {"alpha/index.html": f'<a href="{path.as_uri()}">{path.name}</a>'.encode()})
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.delenv("UV_NO_INDEX")
    if how == "environment":
        monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
    else:
        write(tmp_path, {"pip.conf": f"[global]\nindex-url = {folder.as_uri()}\n".encode()})
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert "alpha.py" in names(pack(stack, ["alpha==1.0"]))


HOSTILE = """
[project]
name = "consumer"
version = "1.0"
[tool.uv]
override-dependencies = ["alpha==1.0", "beta==3.0"]
constraint-dependencies = ["alpha<1.1"]
exclude-newer = "2001-01-01"
no-index = true
find-links = []
resolution = "lowest"
"""


@pytest.mark.parametrize("how", ["project", "file of the folder", "file of the user", "named file", "variables"])
def test_uvs_other_settings_do_not_change_what_is_bundled(stack, wheel, tmp_path, monkeypatch, how) -> None:
    wheel("alpha", "1.0", {"alpha.py": "OLD\n"})
    wheel("alpha", "1.1", {"alpha.py": "NEW\n"}, requires=("beta",))
    wheel("beta", "2.0", {"beta.py": "OLD\n"})
    wheel("beta", "3.0", {"beta.py": "NEW\n"})
    folder = write(tmp_path / "app", {"overrides.txt": b"alpha==1.0\n", "empty.txt": b""})
    settings = HOSTILE.partition("[tool.uv]")[2].encode()
    monkeypatch.chdir(folder)
    if how == "project":
        write(folder, {"pyproject.toml": HOSTILE.encode()})
    elif how == "file of the folder":
        write(folder, {"uv.toml": settings})
    elif how == "file of the user":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(write(tmp_path / "home", {"uv/uv.toml": settings})))
    elif how == "named file":
        monkeypatch.setenv("UV_CONFIG_FILE", str(write(folder, {"hostile.toml": settings}) / "hostile.toml"))
    else:
        for name in ("OVERRIDE", "CONSTRAINT"):
            monkeypatch.setenv(f"UV_{name}", str(folder / "overrides.txt"))
        monkeypatch.setenv("UV_BUILD_CONSTRAINT", str(folder / "gone.txt"))
        monkeypatch.setenv("UV_EXCLUDE_NEWER", "2001-01-01")
        monkeypatch.setenv("UV_RESOLUTION", "lowest")
        monkeypatch.setenv("UV_REQUIRE_HASHES", "1")
        monkeypatch.setenv("UV_WORKING_DIR", str(tmp_path / "gone"))
    bundled = pack(stack, ["alpha==1.1", "beta<3"])
    with zipfile.ZipFile(bundled.zip_path) as archive:
        assert archive.read("alpha.py") + archive.read("beta.py") == b"NEW\nOLD\n"


@pytest.mark.parametrize(
    ("requirement", "version", "pin"),
    [
        ("alpha==1.0", "1.1", "==1.0"),
        ("Alpha == 1.0 ; python_version >= '3.11'", "1.0.1", "== 1.0"),
        ("alpha===1.0  # why", "1.1", "===1.0"),
        ("alpha[fast]==1.0 --hash=sha256:00", "2.0", "==1.0"),
        ("alpha==1.0", "1.0.0", None),
        ("alpha==1.0", "1.0+cpu", None),
        ("alpha==1.0rc1", "1.0rc1", None),
        ("alpha>=1.0", "2.0", None),
        ("alpha==1.*", "1.7", None),
        ("beta==1.0", "2.0", None),
    ],
)
def test_other_version_than_the_pinned_one_is_noticed(requirement, version, pin) -> None:
    expected = [f"alpha {version} in spite of {pin}"] if pin else []
    assert Requirements([requirement]).contradicted({"alpha": version}) == expected


def test_one_of_several_pins_is_enough() -> None:
    both = Requirements(["Al_Pha==1.0; python_version < '3.14'", "al-pha==2.0; python_version >= '3.14'"])
    assert both.contradicted({"al.pha": "2.0"}) == []
    assert both.contradicted({"al.pha": "3.0"}) == ["al.pha 3.0 in spite of ==1.0 and ==2.0"]


def test_code_larger_than_lambda_takes_fails(stack, tmp_path) -> None:
    user = write(tmp_path / "user", {"detect.py": b"", "weights/a.bin": b"", "weights/b.bin": b""})
    for name in "ab":
        os.truncate(user / "weights" / f"{name}.bin", 140_000_000)  # sparse: takes no space
    with pytest.raises(PropError, match=r"Detect must be at most 262 MB unpacked, got 280 MB; .* weights 280 MB"):
        pack(stack, [], {".": user})


def test_source_over_a_wheels_file_fails(stack, wheel, tmp_path) -> None:
    wheel("alpha", "1.0", {"alpha.py": ""})
    user = write(tmp_path / "user", {"alpha.py": b""})
    with pytest.raises(
        PropError,
        match=r"sources of Detect must not overwrite files of its requirements, got 'alpha\.py' from .*user/alpha\.py",
    ):
        pack(stack, ["alpha==1.0"], {".": user})


@pytest.mark.parametrize("file", ["alpha.py", "alpha/__init__.py", "native.py", "name_space.py"])
def test_source_that_hides_a_requirement_fails(stack, wheel, tmp_path, file) -> None:
    wheel("one", "1.0", {"alpha/inner.py": "", "native.cpython-314-aarch64-linux-gnu.so": "", "name_space/a.py": ""})
    user = write(tmp_path / "user", {file: b""})
    module = file.split("/")[0].removesuffix(".py")
    with pytest.raises(
        PropError, match=f"sources of Detect must not hide modules of its requirements, got '{module}'; rename"
    ):
        pack(stack, ["one==1.0"], {".": user})


@pytest.mark.parametrize("file", ["json.py", "logging.py", "email/__init__.py"])
def test_source_that_hides_a_module_of_python_fails(stack, tmp_path, file) -> None:
    module = file.split("/")[0].removesuffix(".py")
    with pytest.raises(
        PropError, match=f"sources of Detect must not hide Python's own modules, got '{module}'; rename it"
    ):
        pack(stack, [], {".": write(tmp_path / "user", {file: b""})})
    with pytest.raises(
        PropError, match=f"sources of Detect must not hide Python's own modules, got '{module}'; rename it"
    ):
        pack(stack, [], {file: b""})


def test_folders_and_inner_modules_that_hide_nothing_are_taken(stack, wheel, tmp_path) -> None:
    wheel("one", "1.0", {"alpha/inner.py": "", "alpha-data.txt": ""})
    user = write(
        tmp_path / "user", {"json/labels.json": b"", "mine/json.py": b"", "alpha/more.py": b"", "json.txt": b""}
    )
    assert {"json/labels.json", "mine/json.py", "alpha/more.py", "json.txt"} < set(
        names(pack(stack, ["one==1.0"], {".": user}))
    )


def test_sources_with_the_same_name_fails(stack, tmp_path) -> None:
    write(tmp_path, {"a/x.py": b"", "b/x.py": b""})
    with pytest.raises(
        PropError, match=r"'x\.py' in the zip must have one source, got .*a/x\.py and .*b/x\.py; rename one"
    ):
        pack(stack, [], {".": tmp_path / "a", "./": tmp_path / "b"})
    with pytest.raises(PropError, match=r"'x\.py' in the zip must have one source, got .*a/x\.py and a generated file"):
        pack(stack, [], {".": tmp_path / "a", "x.py": b""})


@pytest.mark.parametrize("name", ["/etc/x.py", "../x.py", "a/../../x.py"])
def test_name_outside_of_the_zip_fails(stack, tmp_path, name) -> None:
    with pytest.raises(PropError, match=f"a path in the zip must be relative and without '..', got {name!r}"):
        pack(stack, [], {name: write(tmp_path, {"x.py": b""}) / "x.py"})


def test_missing_source_fails(stack, tmp_path) -> None:
    with pytest.raises(PropError, match=r"source must exist, got '.*gone\.py'"):
        pack(stack, [], {"gone.py": tmp_path / "gone.py"})


def test_broken_link_fails(stack, tmp_path) -> None:
    user = write(tmp_path / "user", {"x.py": b""})
    (user / "broken.py").symlink_to("nowhere.py")
    with pytest.raises(PropError, match=r"source must exist, got '.*broken\.py'; .* remove the broken link"):
        pack(stack, [], {".": user})


def test_link_to_a_folder_around_it_fails(stack, tmp_path) -> None:
    user = write(tmp_path / "user", {"a/x.py": b""})
    (user / "a" / "loop").symlink_to(user)
    with pytest.raises(PropError, match=r"source must not be a link to a folder around it, got '.*loop'"):
        pack(stack, [], {".": user})
