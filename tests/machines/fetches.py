"""Fetch in each way that the library and the set-up fetch, and print what came of it as JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.bundling.wheels import Requirements
from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model.files.download import download

if TYPE_CHECKING:
    from collections.abc import Callable

INSTALLER = Path(__file__).parents[2] / "requirements" / "install.py"


def weights(folder: Path, url: str, sha256: str) -> None:
    """The weights of a recipe."""
    download(url, sha256, folder / "weights" / "file")


def wheel(folder: Path, requirement: str) -> None:
    """A package of a function: uv."""
    Requirements([requirement]).install(folder / "wheel", LambdaPlatform(), name="Preprocess")


def pip(folder: Path, requirement: str) -> None:
    """Return what `make` installs first: pip, as old as Python ships it."""
    spec = importlib.util.spec_from_file_location("install", INSTALLER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = module.Environment(Path(sys.prefix))
    environment._trust_the_system()
    environment._pip(
        "download", "--quiet", "--no-cache-dir", "--retries", "0", "--dest", str(folder / "pip"), requirement
    )


def outcome(fetch: Callable[..., None], *arguments: object) -> str:
    try:
        fetch(*arguments)
    except (ModelBuildError, PropError, SystemExit) as error:
        return str(error)
    return "fetched"


if __name__ == "__main__":
    target, url, sha256, requirement = sys.argv[1:]
    found = {
        "weights": outcome(weights, Path(target), url, sha256),
        "wheel": outcome(wheel, Path(target), requirement),
        "pip": outcome(pip, Path(target), requirement),
    }
    sys.stdout.write(json.dumps(found))
