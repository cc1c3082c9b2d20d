"""The packages that carry the models, installed from the index into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock
from uv import find_uv_bin

from cdk_inference.common.cache import cache_root, hash_file, make_cache

REQUIREMENTS = Path(__file__).parent / "requirements.txt"

_OFFLINE = ("dns error", "error sending request", "Could not connect", "Network is unreachable", "timed out")


class UnavailableError(Exception):
    """The packages cannot be fetched."""


def installed(folder: Path | None = None, *, requirements: Path = REQUIREMENTS) -> Path:
    """Return the folder with the packages, which are installed once: pinned, with hashes, without dependencies.

    Parameters
    ----------
    folder
        Where such folders are; by default in the cache.
    requirements
        The packages; by default those that carry models.

    Raises
    ------
    UnavailableError
        If there is no index, with what uv says.
    """
    root = folder or cache_root() / "verify-models"
    make_cache(root)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = root / f"packages-{version}-{hash_file(requirements)[:16]}"
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _install(partial, requirements)
            partial.rename(target)
    return target


def _install(target: Path, requirements: Path) -> None:
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", sys.executable]
    done = subprocess.run(
        [find_uv_bin(), "pip", "install", "--target", str(target), *options, "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    if done.returncode == 0:
        return
    shutil.rmtree(target, ignore_errors=True)
    reason = " ".join(done.stderr.split())[-400:]
    if any(sign in done.stderr for sign in _OFFLINE):
        raise UnavailableError(f"the packages cannot be downloaded: {reason}")
    raise RuntimeError(f"the packages cannot be installed: {reason}")
