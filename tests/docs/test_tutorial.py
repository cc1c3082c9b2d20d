"""The tutorial works as it stands there: its commands, in an empty folder, and the files that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import page

TUTORIAL = page("tutorial.md")
COMMANDS = re.findall(r"<!-- run( fails)? -->\n```console\n(.*?)^```$", TUTORIAL.text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.e2e
def test_the_tutorial_leads_from_an_empty_folder_to_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    assert len(COMMANDS) >= 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    shown = ""
    try:
        for fails, commands in COMMANDS:
            done = subprocess.run(
                ["bash", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert bool(done.returncode) == bool(fails), f"{commands}\n{done.stdout}\n{done.stderr}"
            shown += done.stdout
    finally:
        stop = [sys.executable, "-m", "cdk_inference.local", "destroy"]
        subprocess.run(stop, cwd=folder, env=environment, capture_output=True, check=False)
    assert re.search(r"triangle\.png .*SUCCEEDED.* triangle", shown), shown
    assert re.search(r"recipe\.py .*REJECTED", shown), shown
    assert (folder / "shapes.arm64.lock.json").is_file()
    included = re.findall(r"<!-- include (\S+) -->\n```\w+\n(.*?)^```$", TUTORIAL.text, re.DOTALL | re.MULTILINE)
    assert len(included) >= 5
    for path, text in included:
        assert (folder / Path(path).name).read_text() == text
