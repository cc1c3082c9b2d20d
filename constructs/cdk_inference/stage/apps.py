"""Finds the pipelines of an app by running its file, without bundling functions.

AWS CDK is loaded here and not before: its Node process has the environment of the moment at which it starts.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError
from cdk_inference.testing.stage import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.pipeline.operated import OperatedPipeline

_NO_BUNDLING: dict[str, list[str]] = {"aws:cdk:bundling-stacks": []}


def pipeline_of(app: Path, path: str | None = None) -> OperatedPipeline:
    """Return a pipeline of an app, for `InProcessPipeline.of`.

    Parameters
    ----------
    app
        The file that makes the app, such as ``app.py``. It runs in the current folder, with the context of its
        ``cdk.json``.
    path
        The pipeline's path, such as ``Photos/Pipeline``. Default: the only one.

    Raises
    ------
    PropError
        There is no such file or pipeline, or there are several.
    """
    if not app.is_file():
        raise PropError(f"app must be an existing file, got '{app}'; looked in {Path.cwd()}")
    found = _pipelines(app)
    if path is None and len(found) == 1:
        (path,) = found
    if path is None or path not in found:
        raise PropError(f"pipeline must be {' or '.join(map(repr, found)) or 'in the app'}, got {path!r}")
    return found[path]


def _pipelines(app: Path) -> dict[str, OperatedPipeline]:
    settings = Path("cdk.json")
    own = json.loads(settings.read_text(encoding="utf-8")).get("context", {}) if settings.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="cdk-inference-app-") as folder:
        variables = {"CDK_OUTDIR": folder, "CDK_CONTEXT_JSON": json.dumps({**own, **_NO_BUNDLING})}
        with environment(variables), _recorded() as found, _started(app):
            runpy.run_path(str(app), run_name="__main__")
        return {pipeline.node.path: pipeline for pipeline in found}


@contextmanager
def _started(app: Path) -> Iterator[None]:
    """Let a file find the modules next to it, and no arguments, as if Python had been started with it."""
    arguments, folder = sys.argv, str(app.absolute().parent)
    sys.argv = [str(app)]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.argv = arguments
        sys.path.remove(folder)


@contextmanager
def _recorded() -> Iterator[list[OperatedPipeline]]:
    """Collect the pipelines that are created: an app need not keep them, and CDK's tree does not keep Python's part."""
    from cdk_inference.pipeline.operated import OperatedPipeline  # noqa: PLC0415 - it loads AWS CDK

    found: list[OperatedPipeline] = []
    kind: Any = OperatedPipeline
    original = kind.__init__

    def record(self: OperatedPipeline, *args: Any, **options: Any) -> None:
        found.append(self)
        original(self, *args, **options)

    kind.__init__ = record
    try:
        yield found
    finally:
        kind.__init__ = original
