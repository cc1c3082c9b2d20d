"""Builds a recipe in a separate process, once: the same recipe, files, lock and tools come out of the cache."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import cache_root, hash_data, hash_folder, make_cache
from cdk_inference.common.figures import size
from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.common.store import limit_bytes, prune, touch
from cdk_inference.common.terminal import say
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files import weights
from cdk_inference.model.process import MISSING_EXTRA, run_build
from cdk_inference.model.recipe.precision import Auto, Float16, Float32, Pinned, parts
from cdk_inference.model.recipe.recipe import ModelRecipe, load_recipe
from cdk_inference.model.recipe.targets import ARCHITECTURES, DEFAULT_ARCHITECTURE
from cdk_inference.model.records.fingerprint import (
    LOCK_SUFFIX,
    grouped,
    hash_code,
    hash_files,
    hash_packages,
    short,
)
from cdk_inference.model.records.lock import Lock, deciding, read_lock
from cdk_inference.model.records.manifest import SCHEMA_VERSION, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.model.recipe.targets import Architecture, Target

TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "pillow")
# Fields of a recipe that decide nothing but whether a result is good enough, or how it is presented.
_JUDGED = frozenset(
    (
        *("name", "packages", "provenance", "evaluation.class_names"),
        *("evaluation.floor", "evaluation.max_drop", "evaluation.max_latency_ms", "evaluation.max_size_mb"),
    )
)
FROZEN = "CDK_INFERENCE_FROZEN_LOCK"


@dataclass(frozen=True)
class BuiltModel:
    """A model artifact in the cache.

    Parameters
    ----------
    path
        Folder that holds ``model.onnx``, ``manifest.json``, ``model.weights`` if there are large weights, and nothing
        else. Of several graphs, it has such files for each, and ``driver.json``.
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
        """The measurements of its build, as JSON. They do not ship."""
        return self.path.parent / "report.json"

    @property
    def card(self) -> Path:
        """The model card, as one HTML file; ``card.md`` is next to it. Neither ships."""
        return self.path.parent / "card.html"


@dataclass(frozen=True)
class Project:
    """A recipe with everything that decides what is built from it.

    Parameters
    ----------
    recipe
        The recipe.
    folder
        Folder of its files.
    tools
        Versions of the tools and of the recipe's packages.
    files
        Hashes of the folder's files that count, by name.
    packages
        The fingerprints of the recipe's packages that are not from an index.
    cache
        Cache root.
    architecture
        The architecture of the CPUs that will run the model.
    missing
        Tools and packages that are not installed: their versions are those of the lock, and nothing can be built.
    """

    recipe: ModelRecipe
    folder: Path
    tools: dict[str, str]
    files: dict[str, str]
    packages: dict[str, list[str]]
    cache: Path
    architecture: Architecture = DEFAULT_ARCHITECTURE
    missing: tuple[str, ...] = ()

    @property
    def target(self) -> Target:
        """The target of the build: an architecture, or any if the precision has no 8-bit products."""
        precision = self.recipe.precision
        floats = not isinstance(precision, Auto) and all(
            isinstance(part, Float32 | Float16) for part in parts(precision)
        )
        return "any" if floats else self.architecture

    @property
    def lock_file(self) -> Path:
        """Where the lock is, if the precision is left to a search."""
        return self.folder / f"{self.recipe.name}.{self.target}{LOCK_SUFFIX}"

    @property
    def fingerprint(self) -> str:
        """Hash over recipe and files: what is built from them, with the tools."""
        return hash_data({"recipe": self.recipe.to_data(), "files": self.files, "packages": self.packages})

    @property
    def basis(self) -> dict[str, str]:
        """The basis of a lock, with the tools: short hashes of what decides which model is the best."""
        data = self.recipe.to_data()
        evaluation = {f"evaluation.{name}": value for name, value in data.pop("evaluation").items()}
        fields = {name: value for name, value in (data | evaluation).items() if name not in _JUDGED}
        return {
            **{f"recipe field {name}": short(value) for name, value in fields.items()},
            **{f"code of package {name}": short(source) for name, source in self.packages.items()},
            **grouped(self.files),
        }

    def key(self, lock: Lock | None) -> str:
        """Return what identifies a build: everything that it depends on."""
        return hash_data(
            {
                "schema": SCHEMA_VERSION,
                "fingerprint": self.fingerprint,
                "tools": deciding(self.tools),
                "python": platform.python_version_tuple()[:2],
                "code": hash_code(self.recipe),
                "lock": lock.digest if lock else None,
                "target": self.target,
            }
        )

    def entry(self, key: str) -> Path:
        """Return the cache's folder for a build."""
        return self.cache / "models" / f"{self.recipe.name}-{key[:16]}"


def open_project(
    recipe: str | Path | ModelRecipe,
    *,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    precision: Pinned | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
) -> Project:
    """Return a recipe with its surroundings; see `build_model`.

    Raises
    ------
    ModelBuildError
        If the recipe is wrong, or something that it names is missing.
    """
    if isinstance(recipe, ModelRecipe):
        if folder is None:
            raise ModelBuildError(
                f"folder must be given with recipe '{recipe.name}', which is not a file, got None; pass the folder of "
                "its files"
            )
        root = Path(folder).absolute()
    else:
        recipe, own = load_recipe(recipe)
        root = Path(folder).absolute() if folder is not None else own
    recipe = with_precision(recipe, precision)
    if not root.is_dir():
        raise ModelBuildError(f"folder of recipe '{recipe.name}' must exist, got {root}")
    if architecture not in ARCHITECTURES:
        raise ModelBuildError(f"architecture must be {' or '.join(ARCHITECTURES)}, got {architecture!r}")
    tools, missing = _versions(recipe)
    packages = hash_packages({name: version for name, version in tools.items() if name in recipe.packages})
    files, root_of_cache = hash_files(root, recipe), Path(cache or cache_root()).absolute()
    project = Project(recipe, root, tools, files, packages, root_of_cache, architecture, missing)
    return _with_recorded_versions(project) if missing else project


@check_arguments
def build_model(
    recipe: str | Path | ModelRecipe,
    *,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    precision: Pinned | None = None,
    architecture: Architecture = DEFAULT_ARCHITECTURE,
    frozen_lock: bool = False,
    search: bool = False,
) -> BuiltModel:
    """Build a recipe, or take it from the cache.

    The cache key covers the recipe, the bytes of the files in its folder that the build can read, and the lock. It also
    covers the code that builds, and the versions of Python, the tools and the recipe's packages. A package that is
    installed from a folder counts by its source. Only the build process imports torch.

    If the recipe's precision is `Auto`, a search decides. Its decision is written to
    ``<name>.<architecture>.lock.json`` in the recipe's folder. With a lock that fits the recipe and the tools, nothing
    is measured, and the same bytes come out.

    Parameters
    ----------
    recipe
        Path of a recipe file, or a recipe.
    folder
        Folder that the recipe's paths are relative to; needed with a `ModelRecipe`, by default that of the file.
    cache
        Cache root, by default `cache_root()`. Models go to its subfolder ``models``.
    precision
        Instead of the recipe's, one that leaves nothing to choose: such as `Float16` for a GPU. It must pass the
        recipe's gate, and needs no lock.
    architecture
        The architecture of the CPUs that will run the model: ``"arm64"`` (the default, as for functions) or
        ``"x86_64"``, whose 8-bit weights leave room in the 16-bit sums of CPUs without VNNI.
    frozen_lock
        Fail rather than search, if there is no lock that fits. Also set by ``CDK_INFERENCE_FROZEN_LOCK=1``.
    search
        Search even if there is a lock that fits.

    Raises
    ------
    ModelBuildError
        If the recipe is wrong, the build fails, or the model does not pass its gate. The message is complete;
        a traceback, if there is one, is in the log file that it names.
    """
    project = open_project(recipe, folder=folder, cache=cache, precision=precision, architecture=architecture)
    return build_project(project, frozen_lock=frozen_lock, search=search)


def with_precision(recipe: ModelRecipe, precision: Pinned | None) -> ModelRecipe:
    """Return the recipe, in another precision if one is given.

    Raises
    ------
    ModelBuildError
        If the precision needs data that the recipe does not have.
    """
    return recipe if precision is None else replace(recipe, precision=precision)


def build_project(project: Project, *, frozen_lock: bool = False, search: bool = False) -> BuiltModel:
    """Build what was opened; see `build_model`."""
    frozen = frozen_lock or os.environ.get(FROZEN, "") not in ("", "0")
    if frozen and search:
        raise ModelBuildError("search must be left out with a frozen lock, got both; choose one")
    lock = None if search else _valid_lock(project, frozen=frozen)
    if not search and (built := read_entry(project.entry(project.key(lock)))):
        return built
    if project.missing:
        raise ModelBuildError(
            f"model '{project.recipe.name}' must be built, as it is not in the cache {project.cache}: "
            f"{_how_to_install(project)}"
        )
    with readable_errors(project), locked(project):
        # Somebody else may have built, or searched, while we waited.
        lock = lock or (None if search else _valid_lock(project, frozen=frozen, quiet=True))
        built = None if search else read_entry(project.entry(project.key(lock)))
        return built or _build(project, lock, search=search)


def _build(project: Project, lock: Lock | None, *, search: bool) -> BuiltModel:
    """Build next to the entry and move it into place when it is whole. The caller holds the project's lock."""
    models = project.cache / "models"
    work = models / f".{project.recipe.name}-{project.key(lock)[:16]}.building"
    shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
    work.mkdir(parents=True)
    try:
        say(f"model {project.recipe.name}: not in the cache, building")
        run_build(project.recipe.name, request(project, "build", lock, fresh=search), work)
        searching = lock is None and isinstance(project.recipe.precision, Auto)
        if searching:
            lock = read_lock(work / "lock.json")
            if lock is None:
                raise ModelBuildError(
                    f"model '{project.recipe.name}' cannot be built: the build process ended without a result"
                )
            _keep_lock(project, work / "lock.json")
        entry = project.entry(project.key(lock))
        shutil.rmtree(entry, ignore_errors=True)
        work.rename(entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if (built := read_entry(entry)) is None:
        raise ModelBuildError(f"the artifact in {entry} cannot be read; delete it and try again")
    say(_summary(built.manifest))
    try:
        prune(project.cache, limit_bytes())
    except ModelBuildError as error:
        say(str(error))
    return built


def request(project: Project, mode: str, lock: Lock | None = None, *, fresh: bool = False) -> dict[str, Any]:
    """Return what the build process is told; if fresh, what was measured before does not count."""
    return {
        "mode": mode,
        "recipe": project.recipe.to_data(),
        "folder": str(project.folder),
        "tools": project.tools,
        "files": project.files,
        "packages": project.packages,
        "basis": project.basis,
        "cache": str(project.cache),
        "lock": lock.to_data() if lock else None,
        "fresh": f"{time.time_ns()}" if fresh else None,
        "target": project.target,
    }


def _valid_lock(project: Project, *, frozen: bool, quiet: bool = False) -> Lock | None:
    """Return the lock that decides, if there is one; the cache has it if the recipe's folder is read-only."""
    if not isinstance(project.recipe.precision, Auto):
        return None
    lock = read_lock(project.lock_file)
    stale = "there is none"
    if lock is not None:
        try:
            return _fitting(project, lock)
        except ModelBuildError as error:
            stale = str(error)
    if frozen:
        raise ModelBuildError(
            f"the frozen lock {project.lock_file} must fit recipe '{project.recipe.name}', got one that does not: "
            f"{stale}; build without a frozen lock, review the new lock and commit it"
        )
    kept = read_lock(_kept_lock(project))
    if kept is not None:
        with contextlib.suppress(ModelBuildError):
            return _fitting(project, kept)
    if lock is not None and not quiet:
        say(f"model {project.recipe.name}: the lock does not fit, searching again: {stale}")
    return None


def _fitting(project: Project, lock: Lock) -> Lock:
    """Return what a lock decides about a project.

    Raises
    ------
    ModelBuildError
        With why it decides nothing.
    """
    stale = lock.stale(project.basis, project.tools)
    if lock.name != project.recipe.name:
        stale = f"it is of '{lock.name}'"
    elif lock.target != project.target:
        stale = f"it is for {lock.target}"
    if stale is not None:
        raise ModelBuildError(stale)
    return lock.judged_by(project.recipe.evaluation)


def _kept_lock(project: Project) -> Path:
    return project.cache / "models" / f"{project.recipe.name}-{project.key(None)[:16]}{LOCK_SUFFIX}"


def _keep_lock(project: Project, found: Path) -> None:
    """Put the lock next to the recipe, at once and whole; into the cache if the folder is read-only."""
    partial = project.lock_file.with_name(f".{project.lock_file.name}.partial")
    try:
        partial.write_bytes(found.read_bytes())
        partial.replace(project.lock_file)
    except OSError as error:
        say(
            f"model {project.recipe.name}: cannot write the lock {project.lock_file} ({error.strerror}): "
            "other machines may choose another precision"
        )
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _kept_lock(project).write_bytes(found.read_bytes())


@contextlib.contextmanager
def locked(project: Project) -> Iterator[None]:
    """Keep other processes from building the project meanwhile."""
    from filelock import FileLock  # noqa: PLC0415 - a model that is in the cache needs none

    make_cache(project.cache)
    models = project.cache / "models"
    models.mkdir(exist_ok=True)
    with FileLock(models / f".{project.recipe.name}-{project.fingerprint[:16]}.lock"):
        yield


@contextlib.contextmanager
def readable_errors(project: Project) -> Iterator[None]:
    """Say what to do about a cache that cannot be written."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # filelock: a file system without locks
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = (
            'make room, or clear the cache with "python -m cdk_inference.model cache clear"'
            if full
            else "set CDK_INFERENCE_CACHE to a folder that can be written"
        )
        raise ModelBuildError(
            f"model '{project.recipe.name}': cannot write to the cache {project.cache}: {reason}; {way_out}"
        ) from error


def _versions(recipe: ModelRecipe) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return versions of distributions, and the names of those that are not installed.

    Local parts are left out: ``2.9.0+cpu`` and ``2.9.0`` build the same model.
    """
    found = {"cdk-inference": importlib.metadata.version("cdk-inference")}
    missing = []
    for name in (*TOOLS, *recipe.packages):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return found, tuple(missing)


def _with_recorded_versions(project: Project) -> Project:
    """Return a project with the versions of its lock for what is not installed: a model in the cache needs none of it.

    Raises
    ------
    ModelBuildError
        If there is no lock that has them.
    """
    lock = read_lock(project.lock_file) if isinstance(project.recipe.precision, Auto) else None
    recorded = {name: lock.tools[name] for name in project.missing if name in lock.tools} if lock else {}
    if len(recorded) < len(project.missing):
        raise ModelBuildError(_how_to_install(project))
    return replace(project, tools=project.tools | recorded)


def _how_to_install(project: Project) -> str:
    name = next((name for name in project.missing if name not in TOOLS), None)
    if name is None or set(TOOLS).intersection(project.missing):
        return MISSING_EXTRA
    return f"recipe '{project.recipe.name}' needs package '{name}', which is not installed; pip install {name}"


def read_entry(entry: Path) -> BuiltModel | None:
    """Return the artifact if it is whole; an entry that was damaged is built again."""
    artifact = entry / "artifact"
    try:
        manifest = Manifest.from_json((artifact / "manifest.json").read_text("utf-8"))
        digest = weights.digest(artifact)
    except (OSError, ValueError):
        return None
    if not digest.startswith(manifest.model_version) or not (entry / "report.json").is_file():
        return None
    touch(entry)
    return BuiltModel(artifact, manifest, manifest.model_version, hash_folder(artifact))


def _summary(manifest: Manifest) -> str:
    line = (
        f"model {manifest.name}: version {manifest.model_version}, {manifest.precision}, "
        f"{size(manifest.baseline_size_bytes)} -> {size(manifest.size_bytes)}"
    )
    metric = manifest.metric
    return f"{line}, {metric.name} {metric.quantized:.3f} (gate {metric.gate:.3f})" if metric else line
