"""Converts an estimator of scikit-learn with the script that the project gets, and inspects what comes out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.terminal import say
from cdk_inference.init.errors import InitError
from cdk_inference.init.rendering import render
from cdk_inference.init.sources.onnx_graph import inspect_onnx

if TYPE_CHECKING:
    from cdk_inference.init.model import InspectedModel

SCRIPT = "convert.py"
MODEL = "model.onnx"

_TOOLS = ("joblib", "scikit-learn", "skl2onnx")


def inspect_estimator(path: Path) -> InspectedModel:
    """Convert a ``.joblib`` file to ONNX, and return what is known of it. This runs whatever code is in the file.

    Raises
    ------
    InitError
        scikit-learn or skl2onnx is not installed, or the conversion fails.
    """
    pins = {tool: _version(tool, path) for tool in _TOOLS}
    say(f"warning: converting {path.name} unpickles it, which runs the code in it; go on only with files you trust")
    script = render("convert.py.j2", estimator=path.name, model=MODEL)
    with tempfile.TemporaryDirectory(prefix="cdk-inference-init-") as temporary:
        folder = Path(temporary)
        shutil.copyfile(path, folder / path.name)
        (folder / SCRIPT).write_text(script, "utf-8")
        done = subprocess.run(  # noqa: S603 - this interpreter, with our script
            [sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InitError(
                f"{path.name} must be an estimator that skl2onnx converts, got {reason}; "
                "see the documentation's gallery for categories, or pass an .onnx file that you made of it"
            )
        found = inspect_onnx(folder / MODEL, origin=f"converted by {SCRIPT} from {path.name}")
        graph = (folder / MODEL).read_bytes()
    pinned = "".join(f"{tool}=={pin}\n" for tool, pin in pins.items())
    requirements = f"# For {SCRIPT} alone: an estimator is read by the version of scikit-learn that wrote it.\n{pinned}"
    return replace(
        found,
        files={MODEL: graph, path.name: path, SCRIPT: script, "requirements-convert.txt": requirements},
        notes=(*found.notes, f"run {SCRIPT} again when you have trained another {path.name}"),
    )


def _version(tool: str, path: Path) -> str:
    try:
        return version(tool)
    except PackageNotFoundError:
        raise InitError(
            f"{path.name} needs {' and '.join(_TOOLS[1:])} to be converted, got no {tool}; "
            f"install them: pip install {' '.join(_TOOLS)}"
        ) from None
