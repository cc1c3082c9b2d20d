"""The embedded AWS for end-to-end tests, and how `make test` spreads tests over processes."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import fresh_boot, jsii_process, same_examples, warm_builds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# How long an example takes says nothing: the machine may be busy. The examples are the same in each run, so that a
# failure is about the change that was made; `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", settings.get_profile("explore"), derandomize=True)
settings.load_profile("suite")
same_examples.install("suite")

# Bundles of a Python that is not on this machine go without bytecode then.
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
# uv leaves compiling to the first import. Without this, each of a thousand processes would compile aws-cdk-lib again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# CDK's own validation of templates takes more CPU time than all the rest of a synth. `template_validation` is for tests
# of what it says, and test_targets.py lets it look at the reference app.
os.environ["CDK_VALIDATION"] = "false"
# ONNX Runtime's; the runtime and the build of models set it for themselves.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A shell lets what runs in its background ignore SIGINT, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jsii_process.install()

_SECOND = ("cascade", "events", "photos", "retraining")
"""The folders of tests/e2e that a second process runs. The cascade and the photos share a built model, and together the
folders take about as long as all others."""

pytest_plugins = ["cdk_inference.local.pytest_plugin", "verify.pytest_plugin"]


def pytest_configure(config: pytest.Config) -> None:
    """Run the tests of `make test` as if the machine had been booted a moment ago."""
    if config.getoption("numprocesses", None):  # in the process that starts those of the tests
        fresh_boot.pretend()


@pytest.fixture(scope="session", autouse=True)
def forked_builds() -> Iterator[None]:
    """Models are built in processes that need not import torch again."""
    warm = warm_builds.install()
    yield
    warm.close()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all processes of `make test`: ``made_once("name", make)``. Tests only read it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_or_wait(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return make_or_wait


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that measure time or take long, and keep those that share something in one process.

    End-to-end tests of a folder share what they deploy. All of tests/e2e are in two processes, one folder after the
    other: they mostly wait, while the other processes compute. Without a group, each process that happens to get a test
    of a module would make the module's fixtures again.
    """
    # Not by `-m` in addopts: any other `-m` would replace it.
    for mark in ("performance", "soak"):
        if mark not in config.option.markexpr:
            left_out = [item for item in items if item.get_closest_marker(mark)]
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)
    for item in items:
        if item.get_closest_marker("e2e"):
            below_tests = item.path.relative_to(Path(__file__).parent).parts
            name = f"e2e-{below_tests[0]}"
            if name == "e2e-e2e":
                name = "e2e-second" if below_tests[1] in _SECOND else "e2e"
            item.add_marker(pytest.mark.xdist_group(name))
        elif item.get_closest_marker("xdist_group") is None and _shares(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares(item: pytest.Item) -> bool:
    """Return whether a test uses what is made once for a module."""
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - it is private
    return any(each[-1].scope == "module" for each in definitions)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without going through all that imports made, again and again: it takes a quarter of the time.

    Later than that, only what tests make is gone through, and less often.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20)
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured, also where other processes ran them."""
    for report in terminalreporter.getreports("passed"):
        for name, figures in report.user_properties:
            terminalreporter.write_line(f"{name}: {figures}")
