"""Measure a built model in a separate process, once for all that the result depends on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from cdk_inference.common.store import Store
from cdk_inference.common.terminal import say
from cdk_inference.model.process import run_build
from cdk_inference.model.project import locked, readable_errors, request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.model.project import Project


def is_measured(project: Project, key: str) -> bool:
    """Tell whether the cache has a measurement."""
    return _store(project).get(key) is not None


def measure_once(
    project: Project, key: str, asked: Mapping[str, Any], *, mode: str, result: str, doing: str = ""
) -> Any:  # noqa: ANN401 - whatever the process has written
    """Return a measurement, from the cache if it is there.

    Parameters
    ----------
    project
        The project of the model.
    key
        Names all that the measurement depends on.
    asked
        Told to the process, next to what each build is told.
    mode
        The function that the process calls, ``"module:function"``.
    result
        The file of JSON that it writes.
    doing
        Shown while the process runs. Default: nothing.

    Raises
    ------
    ModelBuildError
        The process fails or ends early.
    """
    store = _store(project)
    found = store.get(key)
    if found is None:

        def make(folder: Path) -> None:
            """Run a separate process: data functions of two recipes may import files of the same name."""
            work = project.cache / "models" / f".{key}.building"
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            work.mkdir()
            if doing:
                say(f"model {project.recipe.name}: {doing}")
            try:
                run_build(project.recipe.name, {**request(project, mode), **asked}, work)
                shutil.copyfile(work / result, folder / result)
            finally:
                shutil.rmtree(work, ignore_errors=True)

        with readable_errors(project), locked(project):
            found = store.make(key, make)
    return json.loads((found / result).read_text("utf-8"))


def _store(project: Project) -> Store:
    return Store(project.cache / "passes")
