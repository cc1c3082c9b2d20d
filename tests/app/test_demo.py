"""The demo's exit code: `make demo` is a check as well."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.e2e

BOOTED = 100  # seconds ago
ON_ITS_OWN = """
import sys, time
from pathlib import Path
print("booted", time.monotonic(), "seconds ago")
import demo
demo.PHOTOGRAPHS = Path(sys.argv[1])
sys.exit(demo.main())
"""


@pytest.fixture
def demo(tmp_path: Path) -> ModuleType:
    """The demo, with two photographs."""
    spec = importlib.util.spec_from_file_location("demo", Path(__file__).parents[2] / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("coffee.png", "camera.png"):
        shutil.copy(module.PHOTOGRAPHS / name, tmp_path)
    module.PHOTOGRAPHS = tmp_path
    return module


def accept(demo: ModuleType, **accepted: str) -> None:
    labels = {f"{name}.png": [label] for name, label in accepted.items()}
    (demo.PHOTOGRAPHS / "accepted.json").write_text(json.dumps(labels))


@pytest.fixture
def freshly_booted() -> list[str]:
    """Command under which a process believes that the machine was booted a moment ago."""
    monotonic, since_boot = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    clocks = [
        f"--{name}={min(0, BOOTED - int(now))}" for name, now in (("monotonic", monotonic), ("boottime", since_boot))
    ]
    alone = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *alone, "--time", "--fork", "--kill-child", *clocks]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        refusal = tried.stderr.strip() if tried.returncode else None
    except FileNotFoundError as error:
        refusal = str(error)
    if refusal is not None:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"CI must run the demo in a time namespace: {refusal}")
        pytest.skip(f"this machine makes no time namespace: {refusal}")
    return command


def test_the_demo_holds_on_a_machine_that_was_just_booted(demo: ModuleType, freshly_booted: list[str]) -> None:
    accept(demo, coffee="espresso", camera="tripod")
    shown = subprocess.run(
        [*freshly_booted, sys.executable, "-c", ON_ITS_OWN, str(demo.PHOTOGRAPHS)],
        cwd=Path(demo.__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    assert float(shown.stdout.split()[1]) < 1800  # sessions of roles last that long
    assert "espresso" in shown.stdout
    assert "not labelled as expected" not in shown.stdout
    assert "Traceback" not in shown.stdout


def test_the_demo_fails_when_a_label_is_not_accepted(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    accept(demo, coffee="espresso", camera="espresso")
    assert demo.main() == 1
    shown = capsys.readouterr().out
    assert "espresso" in shown
    assert "not labelled as expected: camera.png" in shown
