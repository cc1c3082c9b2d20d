"""Finds the files that a recipe names: in its folder, in an installed distribution, or on the web."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from cdk_inference.common.cache import is_clutter
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files.download import download
from cdk_inference.model.recipe.checks import is_inside
from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model.recipe.sources import File

_HUB = "https://huggingface.co"


def fetch(file: File, folder: Path, cache: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> Path:
    """Return where a file is on this machine, after fetching it if need be.

    Parameters
    ----------
    file
        As the recipe names it. A path may be a symbolic link to anywhere: it is the user who made it, and the
        cache key covers what it leads to.
    folder
        The recipe's folder.
    cache
        Cache root; what comes from the web is kept in its subfolder ``files``.
    on_bytes
        As for `download`.

    Raises
    ------
    ModelBuildError
        If there is no such file, or not the one that the recipe means.
    """
    match file:
        case Download():
            return download(file.url, file.sha256, cache / "files" / file.sha256 / file.file_name, on_bytes=on_bytes)
        case HubFile():
            token = os.environ.get("HF_TOKEN", "").strip() or None
            target = cache / "files" / file.sha256 / file.file_name
            return download(
                _hub_url(file),
                file.sha256,
                target,
                token=token,
                token_variable="HF_TOKEN",  # noqa: S106
                on_bytes=on_bytes,
            )
        case PackageFile():
            return _in_package(file)
        case _:
            return _in_folder(file, folder)


def _hub_url(file: HubFile) -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    return f"{endpoint}/{file.repo}/resolve/{quote(file.revision, safe='')}/{quote(file.path)}"


def _in_folder(path: str, folder: Path) -> Path:
    if not is_inside(path):
        raise ModelBuildError(f"file '{path}' must be inside of the recipe's folder {folder}")
    target = folder / path
    if not target.exists():
        near = _near(path, (p.relative_to(folder).as_posix() for p in target.parent.glob("*") if p.is_file()))
        raise ModelBuildError(f"file must exist in {folder}, got '{path}'{near}")
    if not target.is_file():
        raise ModelBuildError(f"file '{path}' in {folder} must be a file, got a folder")
    for parent in (target, *target.parents):
        if parent == folder:
            break
        if is_clutter(parent):
            # The cache key leaves such folders out: a change would not be noticed.
            raise ModelBuildError(
                f"file must not be in '{parent.name}', which tools write to, got '{path}'; move it elsewhere"
            )
    return target


def _in_package(file: PackageFile) -> Path:
    """Find a file without importing the package: only its bytes are wanted."""
    try:
        distribution = importlib.metadata.distribution(file.package)
    except importlib.metadata.PackageNotFoundError:
        raise ModelBuildError(f"package '{file.package}' must be installed; pip install {file.package}") from None
    listed = {p.as_posix(): p for p in distribution.files or ()}
    if file.path in listed:
        candidates = [Path(str(distribution.locate_file(listed[file.path])))]
    else:
        candidates = [root / file.path for root in _editable_roots(distribution)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    near = _near(file.path, listed)
    raise ModelBuildError(
        f"file must exist in package '{file.package}' {distribution.version}, got '{file.path}'{near}"
    )


def _editable_roots(distribution: importlib.metadata.Distribution) -> list[Path]:
    """Return where the sources of a distribution are that is installed from a folder: it does not list its files."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return []
    folder = Path(unquote(urlsplit(origin["url"]).path))
    return [folder, folder / "src"]


def _near(wanted: str, names: object) -> str:
    """Return a hint at the files that may be meant: of a similar name, or elsewhere."""
    known = sorted(str(n) for n in names)  # type: ignore[attr-defined]
    same = [n for n in known if PurePosixPath(n).name == PurePosixPath(wanted).name]
    close = same or difflib.get_close_matches(wanted, known, n=3)
    return f"; did you mean {' or '.join(repr(n) for n in close[:3])}?" if close else ""
