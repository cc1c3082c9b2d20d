"""Builds a recipe in a process of its own, once: the same recipe, files and tools come out of the cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.cache import cache_root, hash_file, hash_folder
from cdk_inference.model.manifest import SCHEMA_VERSION, Manifest
from cdk_inference.model.recipe import ModelRecipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "pillow")
MISSING_EXTRA = 'building a model needs the "model" extra: pip install "cdk-inference[model]"'


@dataclass(frozen=True)
class BuiltModel:
    """A model artifact in the cache.

    Parameters
    ----------
    path
        Folder that holds ``model.onnx`` and ``manifest.json``, and nothing else.
    manifest
        The parsed manifest.
    version
        The manifest's model version.
    asset_hash
        SHA-256 over names and bytes of the folder's files.
    """

    path: Path
    manifest: Manifest
    version: str
    asset_hash: str

    @property
    def report(self) -> Path:
        """What was measured when it was built, as JSON: seconds of each pass, latencies. It does not ship."""
        return self.path.parent / "report.json"


def build_model(
    recipe: str | Path | ModelRecipe, *, folder: str | Path | None = None, cache: str | Path | None = None
) -> BuiltModel:
    """Build a recipe, or take it from the cache.

    The cache key covers the recipe, the bytes of all files in its folder, the versions of Python, the tools and the
    recipe's packages, the source of those that are installed from a folder, and the code that builds.
    torch is imported by the build process only.

    Parameters
    ----------
    recipe
        Path of a recipe file, or a recipe.
    folder
        Folder that the recipe's paths are relative to; needed with a `ModelRecipe`, by default that of the file.
    cache
        Cache root, by default `cache_root()`. Models go to its subfolder ``models``.

    Raises
    ------
    ModelBuildError
        If the recipe is wrong, the build fails, or the model does not pass its gate. The message is complete;
        a traceback, if there is one, is in the log file that it names.
    """
    if isinstance(recipe, ModelRecipe):
        if folder is None:
            raise ModelBuildError(f"recipe '{recipe.name}' was passed as an object: pass the folder of its files too")
        root = Path(folder).absolute()
    else:
        recipe, own = load_recipe(recipe)
        root = Path(folder).absolute() if folder is not None else own
    if not root.is_dir():
        raise ModelBuildError(f"recipe '{recipe.name}': folder {root} does not exist")

    versions = _versions(recipe)
    key = cache_key(recipe, root, versions)
    models = Path(cache or cache_root()).absolute() / "models"
    entry = models / f"{recipe.name}-{key[:16]}"
    if (built := _read(entry)) is None:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f".{entry.name}.lock"):
            if (built := _read(entry)) is None:  # nobody else built it while we waited
                _build(recipe, root, versions, key, entry)
                if built := _read(entry):
                    _say(_summary(built.manifest))
    if built is None:
        raise ModelBuildError(f"recipe '{recipe.name}': the artifact in {entry} is not readable; delete it and retry")
    return built


def _versions(recipe: ModelRecipe) -> dict[str, str]:
    """Return distribution versions without local parts: ``2.9.0+cpu`` and ``2.9.0`` build the same model."""
    found = {}
    for name in (*TOOLS, *recipe.packages):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            if name in TOOLS:
                raise ModelBuildError(MISSING_EXTRA) from None
            raise ModelBuildError(
                f"recipe '{recipe.name}' names package '{name}', which is not installed: pip install {name}"
            ) from None
    return found


def cache_key(recipe: ModelRecipe, folder: Path, versions: Mapping[str, str]) -> str:
    """Return the hash over everything that a model is made from.

    Parameters
    ----------
    recipe
        The recipe.
    folder
        Folder of the recipe's files.
    versions
        Versions of the tools and of the recipe's packages.
    """
    data = {
        "schema": SCHEMA_VERSION,
        "recipe": recipe.to_data(),
        "files": hash_folder(folder),
        "python": platform.python_version_tuple()[:2],
        "versions": versions,
        "sources": {name: source for name in versions if (source := _source(name))},
        "code": hash_folder(Path(__file__).parent),
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _source(name: str) -> list[str | None] | None:
    """Return what tells the code of a distribution apart that is not from an index: its version seldom changes."""
    distribution = importlib.metadata.distribution(name)
    origin = distribution.read_text("direct_url.json")  # has the commit, if it is from a repository
    if origin is None:
        return None
    source = [origin, distribution.read_text("RECORD")]
    url = json.loads(origin)
    folder = Path(unquote(urlsplit(url["url"]).path))
    if url.get("dir_info", {}).get("editable") and folder.is_dir():
        source.append(hash_folder(folder))
    return source


def _read(entry: Path) -> BuiltModel | None:
    """Return the artifact if it is whole; an entry that was damaged is built again."""
    artifact = entry / "artifact"
    try:
        manifest = Manifest.from_json((artifact / "manifest.json").read_text("utf-8"))
        digest = hash_file(artifact / "model.onnx")
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not digest.startswith(manifest.model_version):
        return None
    return BuiltModel(artifact, manifest, manifest.model_version, hash_folder(artifact))


def _build(recipe: ModelRecipe, folder: Path, versions: Mapping[str, str], key: str, entry: Path) -> None:
    """Build beside the entry and move it into place when it is whole. The caller holds the entry's lock."""
    work = entry.parent / f".{entry.name}.building"
    shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
    (work / "artifact").mkdir(parents=True)
    try:
        request = {"recipe": recipe.to_data(), "folder": str(folder), "versions": versions, "key": key}
        (work / "request.json").write_text(json.dumps(request), "utf-8")
        _run(recipe.name, work, entry.parent / f"{entry.name}.log")
        (work / "request.json").unlink()
        shutil.rmtree(entry, ignore_errors=True)
        work.rename(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(name: str, work: Path, log: Path) -> None:
    """Run the build process: it writes events to its output, one JSON object a line; all else goes to the log."""
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    _say(f"model {name}: not in the cache, building")
    error = None
    with log.open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "cdk_inference.model.build", str(work)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            for line in process.stdout or ():
                event = json.loads(line)
                if "error" in event:
                    error = event["error"]
                else:
                    _say(f"model {name}: {event['pass']} ({event['seconds']:.1f} s)")
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if error == "missing extra":
        raise ModelBuildError(f"{MISSING_EXTRA}; see {log}")
    if error is not None:
        raise ModelBuildError(error.replace("{log}", str(log)))
    if process.returncode != 0:
        raise ModelBuildError(f"model '{name}': the build process ended with code {process.returncode}; see {log}")


def _summary(manifest: Manifest) -> str:
    line = (
        f"model {manifest.name}: version {manifest.model_version}, {manifest.precision}, "
        f"{manifest.baseline_size_bytes / 1e6:.1f} MB -> {manifest.size_bytes / 1e6:.1f} MB"
    )
    metric = manifest.metric
    return f"{line}, {metric.name} {metric.quantized:.3f} (gate {metric.gate:.3f})" if metric else line


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
