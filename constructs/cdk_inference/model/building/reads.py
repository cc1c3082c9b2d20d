"""Notices files that a build reads though a change of them would not count."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cache import folder_files
from cdk_inference.model.records.fingerprint import is_lock

if TYPE_CHECKING:
    from collections.abc import Collection


class Reads:
    """Listens to what Python opens from here on, until the process ends.

    Parameters
    ----------
    folder
        The recipe's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._opened: set[str] = set()
        sys.addaudithook(self._listen)

    def _listen(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            self._opened.add(os.fsdecode(arguments[0]))

    def missed(self, counted: Collection[str]) -> list[str]:
        """Return the files of the folder that were read and do not count, sorted."""
        real_folder = cache(os.path.realpath)  # of some hundred, which hold the thousands of files of torch

        def real(name: str) -> str:
            path = Path(name)
            return os.path.realpath(path) if path.is_symlink() else f"{real_folder(path.parent)}{os.sep}{path.name}"

        opened = {real(path) for path in self._opened}
        opened |= {real(file) for module in [*sys.modules.values()] if (file := _file(module))}
        # Packages that are installed in the folder have versions, and are not files of the recipe.
        roots = [root for path in sys.path if (root := Path(path).resolve()) != self._folder]
        return [
            name
            for name, path in folder_files(self._folder)
            if name not in counted
            and not is_lock(name)
            and os.path.realpath(path) in opened
            and not any(root.is_relative_to(self._folder) and path.is_relative_to(root) for root in roots)
        ]


def _file(module: object) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None
