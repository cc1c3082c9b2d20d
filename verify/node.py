"""Run a script with Node, which gets JSON and answers with JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(script: Path, package: Path, questions: object) -> Any:
    """Return what a script answers.

    Parameters
    ----------
    script
        Which.
    package
        Folder of an npm package: the script finds it, and those that are installed next to it.
    questions
        The questions for it.
    """
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    text = json.dumps(questions)
    done = subprocess.run(
        ["node", script, package], input=text, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)
