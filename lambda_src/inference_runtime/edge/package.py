"""The package that a device has: code, model, and the file that describes them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_runtime.errors import StageError

FILE = "edge.json"
"""Its name in the package."""

FORMAT = 1

_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "version": (str,),
    "variables": (dict,),
    "threshold": (float, int, type(None)),
    "row_version": (str, type(None)),
    "check": (dict, type(None)),
}


@dataclass(frozen=True)
class Package:
    """The description of a package.

    Attributes
    ----------
    root
        Its folder.
    name, version
        The component's.
    variables
        The environment variables of the handler.
    threshold
        Items with a lower confidence are escalated; None if everything is sure.
    row_version
        Stands in the sort key of rows for the model's version; None for the model's.
    check
        The example that the self-test runs; see `checking`.
    """

    root: Path
    name: str
    version: str
    variables: dict[str, str]
    threshold: float | None
    row_version: str | None
    check: dict[str, Any] | None

    @classmethod
    def read(cls, root: Path | None = None) -> Package:
        """Read the description of a package.

        Parameters
        ----------
        root
            Its folder. Default: `PACKAGE_ROOT`, or the folder that this code is in.

        Raises
        ------
        StageError
            If the file is not there, or is not such a description.
        """
        folder = root or Path(os.environ.get("PACKAGE_ROOT") or Path(__file__).parents[2])
        try:
            told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StageError(f"cannot read {folder / FILE}: {error}") from error
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise StageError(f"{FILE} must have format {FORMAT}; install a version that matches this runtime")
        for name, types in _TYPES.items():
            if not isinstance(told.get(name), types) or isinstance(told.get(name), bool):
                raise StageError(f"{FILE}: {name} must be {types[0].__name__}, got {told.get(name)!r:.100}")
        if not (told["version"].isascii() and told["version"].isprintable() and told["version"]):
            raise StageError(f"{FILE}: version must be printable ASCII, got {told['version']!a:.100}")
        if not all(isinstance(value, str) for value in told["variables"].values()):
            raise StageError(f"{FILE}: variables must be strings")
        version, wanted = f"{sys.version_info.major}.{sys.version_info.minor}", told.get("python") or ""
        if wanted not in {"", version}:
            raise StageError(f"this version needs Python {wanted}, got {version}; install that Python on the device")
        members: dict[str, Any] = {name: told.get(name) for name in _TYPES}
        return cls(folder, **members)

    def configure(self) -> None:
        """Set the variables of the handler, but those that the device sets itself."""
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("LAMBDA_TASK_ROOT", str(self.root))
        os.environ.setdefault("PIPELINE", self.name)
        os.environ.update(OBJECT_STORE="none", RESULT_SINK="process")  # the agent reads bytes and stores rows
        os.environ["POWERTOOLS_METRICS_DISABLED"] = "true"  # nobody takes them from the log here
        warnings.filterwarnings("ignore", "No application metrics to publish")
