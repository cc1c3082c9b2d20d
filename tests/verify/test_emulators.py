"""The emulators show another CPU, and Python on it loads the bytecode of packages."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from aws_cdk import App, Stack
from verify.arm64 import __main__ as arm64
from verify.arm64.__main__ import limits_for, unfit
from verify.arm64.comparison import EXACT
from verify.arm64.functions import Function
from verify.arm64.runner import Answer, FunctionError, Services, host_python
from verify.debian import UnavailableError

from cdk_inference import LambdaPlatform
from cdk_inference.bundling import bytecode
from cdk_inference.bundling.bundle import bundle
from cdk_inference.local import aws
from verify import emulators

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = "import numpy; print(numpy._core._multiarray_umath.__cpu_features__)"
HANDLER = b"""
import platform, sys
import helper

def handler(event, context):
    if event == "crash":
        raise LookupError("no such thing")
    said = {"machine": platform.machine(), "path": helper.__cached__, "limit": context.memory_limit_in_mb}
    return {"event": event, **said}
"""


def test_a_cpu_without_vnni_is_emulated(cpu_without_vnni: list[str]) -> None:
    done = subprocess.run([*cpu_without_vnni, sys.executable, "-c", FLAGS], capture_output=True, text=True, check=True)
    features = eval(done.stdout)  # noqa: S307 # a dict of numpy's
    assert features["AVX2"]
    assert not any(value for name, value in features.items() if name.startswith("AVX512"))


def test_python_for_arm64_is_emulated(arm64_python: list[str]) -> None:
    program = "import ctypes, json, lzma, platform, ssl, sys; print(platform.machine(), *sys.version_info[:2])"
    done = subprocess.run([*arm64_python, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aarch64", "3", "14"]


def test_a_new_enough_emulator_of_the_system_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, version in (("qemu-aarch64", "11.0.2"), ("qemu-x86_64", "7.2.17")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name} version {version} (somewhere)'\n")
        (tmp_path / name).chmod(0o755)
    asked = []
    monkeypatch.setattr(emulators, "unpacked", lambda name, *_, **__: asked.append(name) or tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    find = emulators._qemu.__wrapped__
    if sys.platform != "linux":
        with pytest.raises(UnavailableError, match="QEMU emulates single programs on Linux only"):
            find("qemu-aarch64")
        return
    assert find("qemu-aarch64") == str(tmp_path / "qemu-aarch64")
    assert asked == []
    with pytest.raises(UnavailableError, match="none/usr/bin/qemu-x86_64 does not run on this machine"):
        find("qemu-x86_64")
    assert asked == ["qemu-user"]


def test_programs_of_another_machine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="programs of this machine are for aarch64, not for x86_64"):
        emulators.x86_64()


def test_verification_says_plainly_that_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable(cpu: str) -> list[str]:
        raise UnavailableError("QEMU emulates single programs on Linux only, and this is darwin")

    monkeypatch.setattr(emulators, "python", unavailable)
    monkeypatch.setattr(sys, "argv", ["verify"])
    assert arm64.main() == 69
    reason = "arm64 was not verified: QEMU emulates single programs on Linux only, and this is darwin\n"
    assert capsys.readouterr().out == reason


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as written:
        for name, content in files.items():
            written.writestr(name, content)
    return path


def function(zipped: Path, **changes: Any) -> Function:
    facts: dict[str, Any] = {
        "pipeline": "Test",
        "stage": "Preprocess",
        "handler": "task.handler",
        "runtime": "python3.14",
        "memory_size": 512,
        "archive": zipped,
        "layers": (),
        "variables": {},
        "precision": None,
    }
    return Function(**facts | changes)


@pytest.fixture
def services() -> Services:
    endpoint = "http://127.0.0.1:1"  # nobody answers: these functions ask for nothing
    aws.use_key(endpoint, aws.Key())
    return Services(endpoint, "test")


def test_the_emulated_interpreter_loads_what_this_machine_compiled(
    python_compiler: Path, arm64_python: list[str], services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(bytecode.COMPILERS, str(python_compiler))
    monkeypatch.setattr(bytecode, "_search", bytecode._search.__wrapped__)
    bundled = bundle(
        Stack(App(), "Stack"),
        name="Task",
        requirements=[],
        sources={"task.py": HANDLER, "helper.py": b"VALUE = 1\n"},
        platform=LambdaPlatform(),
    )
    made = function(bundled.zip_path)
    assert made.bytecode() == {"cpython-314": 2}
    answer = services.run(made, ["event"], arm64_python)
    (said,) = answer.answers
    assert (said["machine"], said["event"], said["limit"]) == ("aarch64", "event", "512")
    assert said["path"].endswith("/task/__pycache__/helper.cpython-314.pyc")
    assert unfit(made, answer) == []


def test_a_function_runs_in_a_process_of_its_own_and_modules_without_bytecode_are_named(
    services: Services, tmp_path: Path
) -> None:
    zipped = archive(tmp_path / "code.zip", {"task.py": HANDLER})
    layer = archive(tmp_path / "layer.zip", {"python/helper.py": b""})
    made = function(zipped, layers=(layer,))
    answer = services.run(made, ["one", "two"], host_python())
    assert [said["event"] for said in answer.answers] == ["one", "two"]
    assert answer.machine == platform.machine()
    assert sorted(path.rpartition("/")[2] for path in answer.compiled) == ["helper.py", "task.py"]
    with pytest.raises(FunctionError, match=r"Test preprocess ended with exit code 1: .*LookupError: no such thing"):
        services.run(made, ["crash"], host_python())


def test_what_is_installed_here_is_not_there(services: Services, tmp_path: Path) -> None:
    zipped = archive(tmp_path / "code.zip", {"task.py": b"import numpy\n"})
    with pytest.raises(FunctionError, match="No module named 'numpy'"):
        services.run(function(zipped), ["event"], host_python())


def test_a_run_that_is_none_of_the_package_is_told(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "code.zip", {"task.py": HANDLER, "__pycache__/task.cpython-311.pyc": b""})
    problems = unfit(function(zipped), Answer([], ["/x/task/task.py", "/x/task/b.py"], "x86_64", "3.11.7", 0.1))
    assert problems == [
        "ran on x86_64",
        "ran on Python 3.11.7",
        "the package has bytecode for cpython-311, not cpython-314 alone",
        "Python compiled 2 modules, such as task.py",
    ]


def test_limits_depend_on_what_a_function_does(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "code.zip", {})
    assert limits_for(function(zipped)) == EXACT
    assert limits_for(function(zipped, stage="Postprocess")).relative == 1e-6
    assert limits_for(function(zipped, stage="Inference", precision="float32")).relative == 1e-5
    assert limits_for(function(zipped, stage="Inference", precision="static_int8")).cosine == 0.99


def test_a_function_that_does_not_run_here_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(cpu: str) -> list[arm64.Row]:
        raise FunctionError("Photos preprocess ended with exit code 1: KeyError: 'x'")

    monkeypatch.setattr(arm64, "verify", verify)
    monkeypatch.setattr(sys, "argv", ["verify"])
    assert arm64.main() == 1
    assert capsys.readouterr().out.startswith(
        "error: on this machine, Photos preprocess ended with exit code 1: KeyError"
    )


@pytest.mark.parametrize("changed", [False, True])
def test_a_wrong_answer_under_emulation_fails(changed: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    comparison = arm64.Comparison(problems=["answers[0].groups: other"] if changed else [])
    row = arm64.Row("Photos preprocess", "image", "aarch64", "3.14.8", comparison, 1.5)
    monkeypatch.setattr(arm64, "verify", lambda cpu: [row])
    monkeypatch.setattr(sys, "argv", ["verify"])
    assert arm64.main() == int(changed)
    printed = capsys.readouterr().out
    assert ("differs" in printed) == changed
    assert ("answers[0].groups: other" in printed) == changed
