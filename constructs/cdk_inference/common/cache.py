"""Where built things are kept between synths, and the hashes that name them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLUTTER = frozenset(
    (
        *(".git", ".hg", ".svn", ".DS_Store", ".idea", ".vscode"),
        *("__pycache__", ".venv", ".coverage", ".hypothesis", ".ipynb_checkpoints", ".nox", ".tox"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache"),
        *("cdk.out", ".cdk-inference", "node_modules"),
    )
)
_TAG = "CACHEDIR.TAG"
_EDITORS = (".swp", ".swo", "~")  # of files that are open
_PROJECT_FILES = ("pyproject.toml", "setup.py", "package.json")


def cache_root() -> Path:
    """Return the cache folder: ``$CDK_INFERENCE_CACHE``, or the user's cache folder of the operating system.

    A user without a home that can be written, as in many containers, gets a private folder among the temporary files.

    Raises
    ------
    ModelBuildError
        If another user made a folder of that name.
    """
    chosen = os.environ.get("CDK_INFERENCE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    try:
        folder = Path(platformdirs.user_cache_dir("cdk-inference"))
    except RuntimeError:  # the system does not know this user's home
        return _temporary_cache()
    return folder if is_creatable(folder) else _temporary_cache()


def home() -> Path:
    """Return the user's home; a relative path if the system knows none."""
    return Path(os.path.expanduser("~"))  # noqa: PTH111 # Path.expanduser raises an error instead


def is_creatable(folder: Path) -> bool:
    """Tell whether a folder exists or could be created.

    Parameters
    ----------
    folder
        A relative one cannot: it would belong to whatever the current folder is.
    """
    if not folder.is_absolute():
        return False
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError:  # a folder on the way cannot be searched
        return False
    return nearest == folder or (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK))


def _temporary_cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"cdk-inference-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ModelBuildError(f"the cache {folder} must be a folder that only you can write; set CDK_INFERENCE_CACHE")
    return folder


def make_cache(root: Path) -> None:
    """Create the cache folder, with the tag by which backups, and hashes of what is around it, leave it out.

    See https://bford.info/cachedir/.
    """
    root.mkdir(parents=True, exist_ok=True)
    tag = root / _TAG
    if not tag.exists():
        tag.write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n")


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX name, path) of the files that count, sorted; links are followed, clutter is left out."""
    yield from sorted(_walk(folder, "", ()))


def is_clutter(path: Path) -> bool:
    """Tell whether a file or folder was written by a tool, and says nothing about what is made of its surroundings.

    A recipe may lie next to the app: what a synth writes there must not count as a change of the model.
    """
    if path.name in _CLUTTER or path.name.endswith(_EDITORS):
        return True
    if path.name == "dist":  # of a build; anywhere else it may well be data
        return any((path.parent / name).is_file() for name in _PROJECT_FILES)
    if not path.is_dir():
        return False
    # Outputs of `cdk --output`, which the CDK marks at the end of a synth, virtual environments by other names, caches.
    output = os.environ.get("CDK_OUTDIR")
    return (
        (path / "cdk.out").is_file()
        or (path / "pyvenv.cfg").is_file()
        or (path / _TAG).is_file()
        or (output is not None and path.absolute() == Path(output).absolute())
    )


def _walk(folder: Path, prefix: str, parents: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    real = folder.resolve()
    if real in parents:
        return  # a link to a folder around it, whose files are listed already
    for child in folder.iterdir():
        if is_clutter(child):
            continue
        if child.is_dir():
            yield from _walk(child, f"{prefix}{child.name}/", (*parents, real))
        elif child.is_file():
            yield prefix + child.name, child


def hash_folder(folder: Path, *, ignored: Callable[[str], bool] = lambda _: False) -> str:
    """Return the SHA-256 over names and bytes of a folder's files; where it lies, modes and times do not matter.

    Parameters
    ----------
    folder
        The folder.
    ignored
        Told the relative POSIX name of a file, says whether it does not count.
    """
    digest = hashlib.sha256()
    for name, path in folder_files(folder):
        if not ignored(name):
            digest.update(f"{name}\0{hash_file(path)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_data(data: object) -> str:
    """Return the SHA-256 of JSON-compatible data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
