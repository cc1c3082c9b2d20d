"""Imports the modules of a stage as its function in AWS does: those among its sources, whatever else lies next to them.

A function has all sources in one folder. Here they stay where they are, so that debuggers, coverage and tracebacks
show the files that you edit.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType


_names: set[str] = set()
"""Names of modules at the root of a package that were found for any stage so far."""


class StageModules(MetaPathFinder):
    """Finds the modules of a stage.

    Parameters
    ----------
    sources
        Files and folders by their name in the function's package.
    """

    def __init__(self, sources: Mapping[str, Path]) -> None:
        self._sources = sources

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the interface's
    ) -> ModuleSpec | None:
        """Return how to import a module; None if it is not one of these, or in a package."""
        found = self._spec(fullname) if path is None else None
        if found is not None:
            _names.add(fullname)
        return found

    def forget_others(self, entry: str) -> None:
        """Have modules imported anew that this stage does not have, or has from other files than another stage.

        Parameters
        ----------
        entry
            The module that has the stage's function. It is imported anew also if a test imported another of its name.
        """
        others = {
            name
            for name in (*_names, entry)
            if (module := sys.modules.get(name)) is not None and not self._has(name, module)
        }
        for name in [name for name in sys.modules if name.partition(".")[0] in others]:
            del sys.modules[name]

    def _has(self, name: str, module: ModuleType) -> bool:
        spec = self._spec(name)
        if spec is None:
            return False
        if spec.origin is None:
            return list(module.__path__) == spec.submodule_search_locations
        file = getattr(module, "__file__", None)
        return file is not None and Path(file).resolve() == Path(spec.origin).resolve()

    def _spec(self, name: str) -> ModuleSpec | None:
        if (folder := self._sources.get(name)) is None or not folder.is_dir():
            file = self._sources.get(f"{name}.py", Path())
            return spec_from_file_location(name, file) if file.is_file() else None
        if (file := folder / "__init__.py").is_file():
            return spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
        if (found := PathFinder.find_spec(name)) is not None and found.loader is not None:
            return None  # as in AWS, a folder without __init__.py comes after all packages
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec
