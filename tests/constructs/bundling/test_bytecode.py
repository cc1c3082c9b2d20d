"""Compiled modules in the packages: what Python really loads, the same bytes from every machine, or a warning."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import Annotations as Notes
from aws_cdk import App, Stack
from aws_cdk.assertions import Annotations, Match
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdk_inference import LambdaPlatform
from cdk_inference.bundling import bundle as bundling
from cdk_inference.bundling import bytecode
from cdk_inference.bundling.bundle import bundle
from cdk_inference.bundling.bytecode import BytecodeError, compile_modules, compile_packages
from cdk_inference.common.store import Store

HERE = f"3.{sys.version_info.minor}"
TAG = sys.implementation.cache_tag
# Where other versions may be; nothing is downloaded for a test.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
SOURCES = {
    "detect.py": b"VALUE = 1\nWORDS = {'a', 'b', 'c', 'd'}\nprint(VALUE, 'b' in {'x', 'y', 'b'})\n",
    "shop/__init__.py": b"from shop.till import Till\n",
    "shop/till.py": b'"""Sells."""\nclass Till:\n    def sell(self, what="apple"):\n        return [x for x in what]\n',
}


def python_of(version: str) -> Path:
    """Return an interpreter of another version, or skip the test where there is none."""
    if version == HERE:
        return Path(sys.executable)
    for found in (*sorted(PYENV.glob(f"{version}.*/bin/python{version}")), shutil.which(f"python{version}")):
        # pyenv puts stand-ins on PATH that do not start.
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return Path(found)
    pytest.skip(f"there is no Python {version} on this machine")


def pack(stack: Stack, sources: dict[str, Path | bytes], python: str = HERE) -> bundling.BundledCode:
    return bundle(stack, name="Detect", requirements=[], sources=sources, platform=LambdaPlatform(python, wheels="any"))


def compiled_names(bundled: bundling.BundledCode) -> list[str]:
    with zipfile.ZipFile(bundled.zip_path) as archive:
        return [name for name in archive.namelist() if name.endswith(".pyc")]


def compile_here(folder: Path, files: dict[str, Path | bytes]) -> dict[str, bytes]:
    compiled = compile_modules(files, folder, python=HERE, executable=sys.executable)
    return {name: path.read_bytes() for name, path in compiled.items()}


@pytest.mark.parametrize("version", [HERE, "3.12", "3.13", "3.14"])
def test_python_loads_the_bytecode_whatever_the_date_of_the_source(
    version: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = python_of(version)
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    bundled = pack(stack, {"detect.py": SOURCES["detect.py"]}, version)
    (name,) = compiled_names(bundled)
    assert name == f"__pycache__/detect.cpython-{version.replace('.', '')}.pyc"
    zipfile.ZipFile(bundled.zip_path).extractall(tmp_path / "task")
    # Only bytecode of exactly this Python, which is not compared with the source, still says 1.
    (tmp_path / "task" / "detect.py").write_text("VALUE = 2\nprint(VALUE)\n")
    done = subprocess.run(
        [python, "-S", "-c", "import detect; print(detect.__cached__, detect.__file__)"],
        cwd=tmp_path / "task",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "1 True",
        f"{tmp_path / 'task' / name} {tmp_path / 'task' / 'detect.py'}",
    ]


def test_traceback_shows_the_source(stack: Stack, tmp_path: Path) -> None:
    bundled = pack(stack, {"detect.py": b"def run():\n    raise LookupError('gone')\n"})
    zipfile.ZipFile(bundled.zip_path).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import detect; detect.run()"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert f'File "{tmp_path / "detect.py"}", line 2, in run' in done.stderr
    assert "raise LookupError('gone')" in done.stderr


def test_bytecode_is_unchecked_and_says_where_lambda_unpacks_it(tmp_path: Path) -> None:
    compiled = compile_here(tmp_path, SOURCES)
    assert sorted(compiled) == [
        f"__pycache__/detect.{TAG}.pyc",
        f"shop/__pycache__/__init__.{TAG}.pyc",
        f"shop/__pycache__/till.{TAG}.pyc",
    ]
    content = compiled[f"shop/__pycache__/till.{TAG}.pyc"]
    assert content[:4] == importlib.util.MAGIC_NUMBER
    assert content[4:8] == b"\x01\x00\x00\x00"  # PEP 552: by hash, not checked
    assert content[8:16] == importlib.util.source_hash(SOURCES["shop/till.py"])
    code = marshal.loads(content[16:])  # noqa: S302 # our own
    assert code.co_filename == "/var/task/shop/till.py"


def test_a_large_package_is_compiled_once_for_all_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def recorded(files: dict[str, Path | bytes], folder: Path, **options: Any) -> dict[str, Path]:
        asked.append(sorted(files))
        return compile_modules(files, folder, **options)

    monkeypatch.setattr(bytecode, "compile_modules", recorded)
    library: dict[str, Path | bytes] = {
        f"library/m{number}.py": f"VALUE = {number}, 'library'\n".encode() for number in range(bytecode._MANY)
    }

    def compiled(name: str, files: dict[str, Path | bytes]) -> dict[str, bytes]:
        asked.clear()
        found = compile_packages(
            files, tmp_path / name, python=HERE, executable=sys.executable, store=Store(tmp_path / "bytecode")
        )
        return {
            name: content if isinstance(content, bytes) else content.read_bytes() for name, content in found.items()
        }

    first = compiled("first", library | SOURCES)
    assert asked == [sorted(library), sorted(SOURCES)]
    assert first == compile_here(tmp_path / "apart", library) | compile_here(tmp_path / "rest", SOURCES)
    second = compiled("second", {**library, "other.py": b"import library\n", "library/data.txt": b"1"})
    assert asked == [["other.py"]]
    assert second == {name: first[name] for name in first if name.startswith("library/")} | compile_here(
        tmp_path / "other", {"other.py": b"import library\n"}
    )
    compiled("third", {**library, "library/m0.py": b"VALUE = 'changed'\n"})
    assert asked == [sorted(library)]


def test_neither_folder_umask_nor_environment_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_here(tmp_path / "a", SOURCES)
    for index, seed in enumerate(["0", "1", "4711"]):
        folder = tmp_path / ("b" * 40 * (index + 1))
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("PYTHONOPTIMIZE", str(index))
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("PYTHONNODEBUGRANGES", "1")
        before = os.umask(0o77 if index else 0)
        try:
            files: dict[str, Path | bytes] = {}
            for name, content in reversed(SOURCES.items()):
                path = folder / "user" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                files[name] = content if name == "detect.py" else path
            assert compile_here(folder / "made", files) == first
        finally:
            os.umask(before)


def test_the_standard_library_gives_the_same_bytes_again(tmp_path: Path) -> None:
    """Two hundred modules as people write them."""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    files: dict[str, Path | bytes] = {path.name: path for path in modules}
    first, second = (compile_here(tmp_path / name, files) for name in ("a", "b"))
    assert len(first) > 100
    assert first == second


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(sources=st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)), max_size=8))
def test_files_that_are_no_python_are_left_out(sources: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    def is_valid(source: bytes) -> bool:
        try:
            compile(source, "x", "exec")
        except (SyntaxError, ValueError):
            return False
        return True

    files: dict[str, Path | bytes] = {f"m{index}.py": source for index, source in enumerate(sources)}
    compiled = compile_here(tmp_path_factory.mktemp("any"), {**files, "data.txt": b"VALUE = 1"})
    assert set(compiled) == {
        f"__pycache__/m{index}.{TAG}.pyc" for index, source in enumerate(sources) if is_valid(source)
    }


def wrapper(folder: Path, *options: str) -> str:
    """Make an interpreter of this version that writes other bytecode, as another patch version may."""
    path = folder / f"python{HERE}"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(options)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_other_bytecode_for_the_same_sources_is_no_reason_to_deploy(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name, executable in (("a", sys.executable), ("b", wrapper(tmp_path, "-X", "no_debug_ranges"))):
        monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / name))
        monkeypatch.setattr(bundling, "interpreter", lambda _, executable=executable: executable)
        made.append(pack(stack, {"shop/till.py": SOURCES["shop/till.py"]}))
    assert made[0].zip_path.read_bytes() != made[1].zip_path.read_bytes()
    assert made[0].asset_hash == made[1].asset_hash


def no_interpreter(python: str) -> str:
    raise BytecodeError(f"there is no CPython {python} on this machine")


def test_without_an_interpreter_the_stack_is_warned_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "interpreter", no_interpreter)
    for name in ("detect.py", "shop/till.py"):
        for _ in range(2):  # made, and taken from the cache
            assert compiled_names(pack(stack, {name: SOURCES[name]})) == []
    (warning,) = Annotations.from_stack(stack).find_warning("*", Match.any_value())
    assert str(warning.entry.data).startswith("every cold start compiles the modules that it imports")
    assert f"there is no CPython {HERE} on this machine" in str(warning.entry.data)


def test_acknowledged_warning_is_gone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "interpreter", no_interpreter)
    Notes.of(stack).acknowledge_warning("cdk-inference:bytecode", "nobody waits for it")
    pack(stack, {"detect.py": SOURCES["detect.py"]})
    assert Annotations.from_stack(stack).find_warning("*", Match.any_value()) == []


def test_an_interpreter_that_appears_is_used(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sources: dict[str, Path | bytes] = {"detect.py": SOURCES["detect.py"]}
    with monkeypatch.context() as patch:
        patch.setattr(bundling, "interpreter", no_interpreter)
        patch.setattr(bundling, "traces", lambda _: [])
        without = pack(stack, sources)
    found = [sys.executable]
    monkeypatch.setattr(bundling, "traces", lambda _: found)
    compiled = pack(stack, sources)
    assert len(compiled_names(compiled)) == 1
    assert compiled.asset_hash != without.asset_hash
    # Bytecode that was made stays in use when the interpreter is gone.
    monkeypatch.setattr(bundling, "interpreter", no_interpreter)
    found.clear()
    assert pack(stack, sources) == compiled
    assert capfd.readouterr().err.count("bundling Detect") == 2


def test_nothing_is_searched_for_as_long_as_nothing_hints_at_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(bundling, "interpreter", lambda python: asked.append(python) or no_interpreter(python))
    for _ in range(3):
        pack(stack, {"detect.py": SOURCES["detect.py"]})
    assert asked == [HERE]
    # A change that nothing hints at, such as a network that is back.
    monkeypatch.setattr(bundling, "_SEARCH_SECONDS", 0)
    pack(stack, {"detect.py": SOURCES["detect.py"]})
    assert asked == [HERE, HERE]


def test_another_setting_of_uv_is_a_reason_to_search(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: dict[str, Path | bytes] = {"detect.py": SOURCES["detect.py"]}
    with monkeypatch.context() as patch:
        patch.setattr(bundling, "interpreter", no_interpreter)
        assert compiled_names(pack(stack, sources)) == []
    assert compiled_names(pack(stack, sources)) == []
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "automatic")
    assert len(compiled_names(pack(stack, sources))) == 1


def test_this_interpreter_is_a_trace_of_its_version_alone() -> None:
    assert sys.executable in bytecode.traces(HERE)
    assert sys.executable not in bytecode.traces("3.999")


def test_interpreter_that_fails_is_named(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libpython is missing' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(bundling, "interpreter", lambda _: str(broken))
    assert compiled_names(pack(stack, {"detect.py": SOURCES["detect.py"]})) == []
    Annotations.from_stack(stack).has_warning(
        "*", Match.string_like_regexp(f"{broken} cannot compile for Python .*libpython is missing.*remove it")
    )


def test_bytecode_that_does_not_fit_is_left_out(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "UNPACKED_LIMIT", 2 * len(SOURCES["detect.py"]))
    assert compiled_names(pack(stack, {"detect.py": SOURCES["detect.py"]})) == []
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("with bytecode, Detect would be .* Lambda"))


@pytest.mark.parametrize("says", ["CPython 3.14 candidate /x", "PyPy 3.14 final /x", "CPython 3.13 final /x", ""])
def test_other_interpreters_are_not_taken(says: str, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    assert bytecode._checked(str(script), "3.14") is None
    assert bytecode._checked(sys.executable, HERE) is not None


def test_managed_interpreters_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = python_of("3.12")
    before = bytecode.traces("3.12")
    managed = tmp_path / "managed"
    libc = "gnu" if sys.platform == "linux" else "none"
    machine = "x86_64" if os.uname().machine == "x86_64" else "aarch64"
    system = "linux" if sys.platform == "linux" else "macos"
    full = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    installed = managed / f"cpython-{full}-{system}-{machine}-{libc}"
    installed.mkdir(parents=True)
    for folder in ("bin", "lib"):
        (installed / folder).symlink_to(python.resolve().parents[1] / folder)
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(managed))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    assert bytecode.interpreter("3.12").startswith(str(managed))
    assert bytecode.traces("3.12") != before


@pytest.mark.skipif(sys.platform != "linux", reason="the archive is made like one for Linux")
@pytest.mark.parametrize("allowed", ["automatic", "manual", "never"])
def test_interpreter_is_downloaded_unless_that_is_forbidden(
    allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = python_of("3.12")
    # The archive is on this machine, and starts the interpreter that is here.
    root = tmp_path / "python"
    (root / "bin").mkdir(parents=True)
    (root / "lib" / "python3.12").mkdir(parents=True)
    (root / "bin" / "python3.12").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    (root / "bin" / "python3.12").chmod(0o755)
    (root / "bin" / "python").symlink_to("python3.12")
    for path in (python.resolve().parents[1] / "lib" / "python3.12").glob("_sysconfigdata_*.py"):
        shutil.copy(path, root / "lib" / "python3.12")
    archive = shutil.make_archive(str(tmp_path / "cpython"), "gztar", tmp_path, "python")
    known = {
        **{"name": "cpython", "arch": {"family": os.uname().machine, "variant": None}, "os": "linux", "libc": "gnu"},
        **{"major": 3, "minor": 12, "patch": 1, "prerelease": "", "variant": None, "build": "1", "sha256": None},
        "url": Path(archive).as_uri(),
    }
    (tmp_path / "downloads.json").write_text(json.dumps({f"cpython-3.12.1-linux-{os.uname().machine}-gnu": known}))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "downloads.json"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "managed"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", allowed)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    if allowed == "automatic":
        assert Path(bytecode.interpreter("3.12")).samefile(python)
        assert bytecode.traces("3.12")
    else:
        with pytest.raises(BytecodeError, match=f"downloads are set to '{allowed}'.* run 'uv python install 3.12'"):
            bytecode.interpreter("3.12")
        assert not bytecode.traces("3.12")


def test_forbidden_download_fails_at_once_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    with pytest.raises(
        BytecodeError, match=r"CPython 3\.99 must be on this machine, got none, .*; run 'uv python install 3\.99'"
    ):
        bytecode.interpreter("3.99")


def test_a_download_that_fails_does_not_say_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is part of a warning: with seconds in it, each synth would write another assembly."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "automatic")
        monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))
        monkeypatch.setattr(bytecode, "_named", list)
        monkeypatch.setattr(bytecode, "_is_this", lambda _: False)
        monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(BytecodeError, match=r"Request failed after \d (retry|retries): ") as error:
            bytecode.interpreter("3.14")
    assert not re.search(r" in \d", str(error.value))


def test_two_stacks_are_warned_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "interpreter", no_interpreter)
    app = App()
    for name in ("One", "Two"):
        stack = Stack(app, name)
        pack(stack, {"detect.py": SOURCES["detect.py"]})
        assert len(Annotations.from_stack(stack).find_warning("*", Match.any_value())) == 1


def test_a_named_interpreter_is_asked_before_one_is_downloaded(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = python_of("3.12")
    # It calls itself by a path that does not start here, as an emulated one does.
    emulated = tmp_path / "emulated 3.12"
    emulated.write_text(
        f'#!/bin/sh\n[ "$1" = -I ] && echo "CPython 3.12 final /nowhere/python" && exit\nexec "{python}" "$@"\n'
    )
    emulated.chmod(0o755)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "managed"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    sources: dict[str, Path | bytes] = {"detect.py": SOURCES["detect.py"]}
    assert compiled_names(pack(stack, sources, "3.12")) == []
    monkeypatch.setenv(bytecode.COMPILERS, os.pathsep.join([sys.executable, str(emulated)]))
    assert bytecode.interpreter("3.12") == str(emulated)
    assert compiled_names(pack(stack, sources, "3.12")) == ["__pycache__/detect.cpython-312.pyc"]


def test_a_named_interpreter_that_does_not_start_fails_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "python3.99")
    monkeypatch.setenv(bytecode.COMPILERS, missing)
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    with pytest.raises(BytecodeError, match=r"python3\.99 cannot start \(No such file or directory\)"):
        bytecode.interpreter("3.99")
