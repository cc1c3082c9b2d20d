"""What a recipe is identified by: its files, and the code of its packages, the same on every machine."""

from __future__ import annotations

import ast
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.cache import folder_files, hash_folder
from cdk_inference.model.sources import TorchModule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cdk_inference.model.recipe import ModelRecipe

LOCK_SUFFIX = ".lock.json"

_NAME = "RECIPE"


def hash_files(folder: Path, recipe: ModelRecipe) -> str:
    """Return the hash of the folder's files, without locks, and without recipe files unless code needs them too.

    What a recipe says is hashed apart, so that a comment in its file, or another gate, does not export the model again.

    Raises
    ------
    ModelBuildError
        If a file cannot be read.
    """
    try:
        recipes = _recipe_files(folder, recipe)
        return hash_folder(folder, ignored=lambda name: name in recipes or is_lock(name))
    except OSError as error:
        raise ModelBuildError(
            f"recipe '{recipe.name}': cannot read {error.filename or folder}: {error.strerror}"
        ) from error


def hash_packages(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what tells the code of distributions apart that are not from an index: their versions seldom change.

    Where a folder or file lies does not count, so that a lock holds on other machines.
    """
    return {name: source for name in names if (source := _source(name))}


def is_lock(name: str) -> bool:
    """Tell whether a file is a lock, or one that is being written."""
    return name.endswith((LOCK_SUFFIX, f"{LOCK_SUFFIX}.partial"))


def is_about_cascades(name: str) -> bool:
    """Tell whether a file of the package `cdk_inference.model` decides about no artifact: it uses what is built."""
    return name in ("cascade.py", "cascade_lock.py", "build/answers.py")


def _recipe_files(folder: Path, recipe: ModelRecipe) -> frozenset[str]:
    """Return the files at the top of the folder that define a recipe, and that nothing else there runs or reads."""
    texts = {name: path.read_bytes() for name, path in folder_files(folder) if name.endswith(".py")}
    trees = {name: tree for name, text in texts.items() if (tree := _parse(text)) is not None}
    named = {name.partition(":")[0] for name in _references(recipe)}
    found = set()
    for name, own in trees.items():
        if "/" in name or name in named or not _defines_recipe(own):
            continue
        # What cannot be parsed may mention anything.
        others = [tree for other, tree in trees.items() if other != name]
        if len(trees) == len(texts) and not any(_mentions(tree, Path(name)) for tree in others):
            found.add(name)
    return frozenset(found)


def _references(recipe: ModelRecipe) -> Iterator[str]:
    yield from (recipe.evaluation.data, recipe.evaluation.metric, recipe.calibration or "")
    if isinstance(recipe.source, TorchModule):
        yield recipe.source.factory


def _parse(text: bytes) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _defines_recipe(tree: ast.Module) -> bool:
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == _NAME for target in targets)


def _mentions(tree: ast.Module, file: Path) -> bool:
    """Tell whether code imports a file as a module, or has its name in a text."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                found = any(file.stem in alias.name.split(".") for alias in names)
            case ast.ImportFrom(module, names):
                found = file.stem in (module or "").split(".") or any(alias.name == file.stem for alias in names)
            case ast.Constant(str() as text):
                found = file.name in text or text == file.stem
            case _:
                found = False
        if found:
            return True
    return False


def _source(name: str) -> list[str] | None:
    distribution = importlib.metadata.distribution(name)
    origin = distribution.read_text("direct_url.json")
    if origin is None:
        return None
    url = json.loads(origin)
    folder = Path(unquote(urlsplit(url["url"]).path))
    if url.get("dir_info", {}).get("editable") and folder.is_dir():
        return [hash_folder(folder, ignored=is_lock)]
    commit = url.get("vcs_info", {}).get("commit_id")
    return [commit] if commit else _installed_files(distribution.read_text("RECORD") or "")


def _installed_files(record: str) -> list[str]:
    """Return the lines of a record of installed files that are the same on every machine."""
    return [
        line
        for line in sorted(record.splitlines())
        if not line.startswith("..") and ".dist-info/" not in line and "__pycache__" not in line
    ]
