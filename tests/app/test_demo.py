"""The demo's exit code: `make demo` is a check as well."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.local import Outcome
from tests import fresh_boot
from tests.assemblies import synthesized

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).parents[2]
ON_ITS_OWN = """
import sys, time
from pathlib import Path
print("booted", time.monotonic(), "seconds ago")
from demos import photographs as demo
demo.PHOTOGRAPHS, demo.ROOT = map(Path, sys.argv[1:])
sys.exit(demo.main())
"""


@pytest.fixture
def demo(tmp_path: Path) -> ModuleType:
    """The demo, with two photographs."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "demos" / "photographs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("coffee.png", "camera.png"):
        shutil.copy(module.PHOTOGRAPHS / name, tmp_path)
    module.PHOTOGRAPHS = tmp_path
    return module


def accept(demo: ModuleType, **accepted: str) -> None:
    labels = {f"{name}.png": [label] for name, label in accepted.items()}
    (demo.PHOTOGRAPHS / "accepted.json").write_text(json.dumps(labels))


def freshly_booted() -> tuple[list[str], str]:
    """Return the command under which a process believes that the machine was booted a moment ago.

    Where there is none, return why.
    """
    clocks = [f"--{name}={seconds}" for name, seconds in fresh_boot.offsets().items()]
    alone = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *alone, "--time", "--fork", "--kill-child", *clocks]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        refusal = tried.stderr.strip() if tried.returncode else ""
    except FileNotFoundError as error:
        refusal = str(error)
    return ([], refusal) if refusal else (command, "")


@pytest.mark.e2e
def test_the_demo_holds_on_a_machine_that_was_just_booted(
    demo: ModuleType, built: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    built("efficientnet_lite/lite0.py", LambdaPlatform.host().architecture)
    accept(demo, coffee="espresso", camera="tripod")
    app = synthesized(ROOT / "app.py", tmp_path_factory.mktemp("reference"))
    command, refusal = freshly_booted()
    shown = subprocess.run(
        [*command, sys.executable, "-c", ON_ITS_OWN, str(demo.PHOTOGRAPHS), str(app)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout
    assert "espresso" in shown.stdout
    assert "not labelled as expected" not in shown.stdout
    assert "Traceback" not in shown.stdout
    if refusal:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"CI must run the demo in a time namespace: {refusal}")
        pytest.skip(f"the demo holds, but this machine makes no time namespace: {refusal}")
    assert float(shown.stdout.split()[1]) < 1800  # sessions of roles last that long


class LabelledCloud:
    """Stands for an embedded AWS in which the app labels every photograph alike."""

    def __enter__(self) -> LabelledCloud:
        return self

    def __exit__(self, *_: object) -> None: ...

    def deploy(self, folder: Path, **_: object) -> None: ...

    def put(self, *files: Path) -> list[str]:
        return [file.name for file in files]

    def wait_for(self, uploads: list[str], **_: object) -> list[Outcome]:
        return [Outcome(key, "SUCCEEDED", label="espresso", score=0.9) for key in uploads]


def test_the_demo_fails_when_a_label_is_not_accepted(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(demo, coffee="espresso", camera="tripod")
    monkeypatch.setattr(demo, "LocalCloud", LabelledCloud)
    monkeypatch.setattr(demo, "show_model", lambda recipe: None)  # which nobody has built
    assert demo.main() == 1
    shown = capsys.readouterr().out
    assert "espresso" in shown
    assert "not labelled as expected: camera.png" in shown
