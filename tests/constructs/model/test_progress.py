"""The progress that a terminal shows, and that a log gets."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def read_all(terminal: int) -> str:
    data = b""
    try:
        while chunk := os.read(terminal, 65536):
            data += chunk
    except OSError:  # the other end is closed
        pass
    return data.decode()


@pytest.mark.slow
def test_terminal_shows_the_pass_that_runs_and_ticks_off_the_others(onnx_recipe: Path, tmp_path: Path) -> None:
    onnx_recipe.write_text(onnx_recipe.read_text().replace("StaticInt8()", "Float32()"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cdk_inference.model", "build", onnx_recipe, "--cache", tmp_path / "cache"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = read_all(ours)
    os.close(ours)
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    for name in ("export", "clean", "evaluate: float32", "package", "card"):
        assert re.search(rf"✓ model tiny: {name} \(\d+\.\d s\)", plain), name
    assert re.search(r"[^✓] model tiny: export\s", plain)  # next to a spinner, while it ran


def test_interrupted_synth_prints_no_traceback(tmp_path: Path) -> None:
    app = "import cdk_inference; cdk_inference.hide_tracebacks(); raise KeyboardInterrupt"
    done = subprocess.run(
        [sys.executable, "-c", app],
        env=os.environ | {"CDK_OUTDIR": str(tmp_path)},  # as the CDK CLI runs it
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr == "interrupted; what is finished stays in the cache\n"
