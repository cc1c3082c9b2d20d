from __future__ import annotations

import platform
import sys

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_lambda as lambda_

from cdk_inference.common.platform import CONTEXT_KEY, LambdaPlatform
from cdk_inference.errors import PropError


def test_default_is_the_newest_python_of_cdk_on_arm64() -> None:
    known = [int(name.removeprefix("PYTHON_3_")) for name in dir(lambda_.Runtime) if name.startswith("PYTHON_3_")]
    assert LambdaPlatform() == LambdaPlatform(f"3.{max(known)}", "arm64")
    assert LambdaPlatform().runtime.name == "python3.14"
    assert LambdaPlatform().cdk_architecture.name == "arm64"


@pytest.mark.parametrize(
    ("python", "architecture", "wheels"),
    [
        ("3.14", "arm64", "aarch64-manylinux_2_34"),
        ("3.12", "x86_64", "x86_64-manylinux_2_34"),
    ],
)
def test_wheels_are_those_that_the_operating_system_of_the_runtime_loads(python, architecture, wheels) -> None:
    assert LambdaPlatform(python, architecture).uv_platform == wheels


@pytest.mark.parametrize("text", ["3.14/arm64", "3.12/x86_64", "3.11/x86_64/x86_64-manylinux_2_36"])
def test_text_form_is_read_back(text) -> None:
    assert str(LambdaPlatform.parse(text)) == text
    assert LambdaPlatform.parse(str(LambdaPlatform.parse(text))) == LambdaPlatform.parse(text)


def test_host_runs_this_interpreter() -> None:
    host = LambdaPlatform.host()
    assert host.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert host.uv_platform.split("-")[0] == {"x86_64": "x86_64", "arm64": "aarch64"}[host.architecture]


@pytest.mark.parametrize(
    ("system", "libc", "machine", "expected"),
    [
        ("linux", ("glibc", "2.36"), "x86_64", "x86_64-manylinux_2_36"),
        ("linux", ("glibc", "2.30"), "aarch64", "aarch64-manylinux_2_28"),
        ("linux", ("glibc", "2.99"), "x86_64", "x86_64-manylinux_2_40"),
        ("linux", ("", ""), "x86_64", "x86_64-unknown-linux-musl"),
        ("darwin", ("", ""), "arm64", "aarch64-apple-darwin"),
    ],
)
def test_host_takes_the_wheels_that_it_can_load(monkeypatch, system, libc, machine, expected) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert LambdaPlatform.host().uv_platform == expected


def test_host_with_a_foreign_processor_fails(monkeypatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(PropError, match=r"arm64 or x86_64, got 'riscv64'"):
        LambdaPlatform.host()


def test_context_overrides_the_props() -> None:
    local = Stack(App(context={CONTEXT_KEY: "3.12/x86_64"}), "Local")
    aws = Stack(App(), "Aws")
    wanted = LambdaPlatform("3.13", "arm64")
    assert LambdaPlatform.resolve(local, wanted) == LambdaPlatform("3.12", "x86_64")
    assert LambdaPlatform.resolve(aws, wanted) == wanted
    assert LambdaPlatform.resolve(aws, None) == LambdaPlatform()


@pytest.mark.parametrize("value", ["3.14", "arm64", "3.11/x86_64", "3.14/sparc", "", "3.14-arm64"])
def test_context_that_is_no_platform_fails(value) -> None:
    stack = Stack(App(context={CONTEXT_KEY: value}), "Stack")
    with pytest.raises(PropError, match=f"^context {CONTEXT_KEY}={value!r}: "):
        LambdaPlatform.resolve(stack, None)


@pytest.mark.parametrize("python", ["3.11", "3.10", "2.7", "3.14.1", "14", "python3.14", ""])
def test_python_that_is_no_lambda_version_fails(python) -> None:
    with pytest.raises(PropError, match=f"python must be '3.12' or newer, got {python!r}"):
        LambdaPlatform(python)


def test_python_of_amazon_linux_2_is_for_the_host_alone() -> None:
    host = LambdaPlatform("3.11", "x86_64", wheels="x86_64-manylinux_2_36")
    assert (host.uv_platform, host.runtime.name) == ("x86_64-manylinux_2_36", "python3.11")
    with pytest.raises(PropError, match=r"got '3\.10'"):
        LambdaPlatform("3.10", "x86_64", wheels="x86_64-manylinux_2_36")


def test_python_newer_than_cdk_fails() -> None:
    with pytest.raises(PropError, match=r"python must be '3\.12' to '3\.\d+', .* got '3\.99'"):
        _ = LambdaPlatform("3.99").runtime


def test_unknown_architecture_fails() -> None:
    with pytest.raises(PropError, match="architecture must be 'arm64' or 'x86_64', got 'aarch64'"):
        LambdaPlatform("3.14", "aarch64")  # type: ignore[arg-type]
