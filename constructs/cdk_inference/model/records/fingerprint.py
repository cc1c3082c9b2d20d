"""Identifies a recipe by its files and the code of its packages, the same on every machine."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cdk_inference.common.cache import folder_files, hash_data, hash_file, hash_folder
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.graphs import Graphs, sources_of
from cdk_inference.model.recipe.sources import TorchModule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cdk_inference.model.recipe.recipe import ModelRecipe

LOCK_SUFFIX = ".lock.json"

DIGITS = 16
"""Digits of a hash that only has to tell whether something changed."""

_LISTED = 20  # files of a subfolder, at most, that a lock lists one by one
_IMPORTERS = re.compile(
    r"__import__|import_module|exec(_module)?|run_(path|module)|SourceFileLoader|spec_from_file_location"
    r"|iter_modules|walk_packages"
)
# Files that describe a project, if they lie at the top of the folder, which may be that of an app.
_PROJECT = re.compile(
    r".*\.(md|rst|ipynb|lock)|(AUTHORS|CHANGELOG|CODEOWNERS|LICEN[CS]E|NOTICE|README)([.-].*)?"
    r"|\.(git.+|dockerignore|editorconfig|pre-commit-config\.yaml|python-version)|Dockerfile|Makefile|Pipfile"
    r"|cdk(\.context)?\.json|package(-lock)?\.json|pyproject\.toml|requirements.*\.txt|setup\.cfg|tox\.ini"
)
_PROJECT_FOLDERS = (".github", ".gitlab", ".circleci", ".devcontainer")
_LISTING = re.compile(r"i?glob|rglob|iterdir|listdir|scandir|walk")


def hash_files(folder: Path, recipe: ModelRecipe) -> dict[str, str]:
    """Return the SHA-256 of each file in the folder that the build can read, by its relative POSIX name.

    Python files count if the recipe's functions can import or read them, and files that describe a project only if such
    code names them. A file does not count if only the ``__main__`` part of such code names it: a person made it by
    running the code. The content of the recipe's own file is hashed apart: a comment in it exports nothing again.

    Raises
    ------
    ModelBuildError
        If a file cannot be read.
    """
    try:
        files = {name: path for name, path in folder_files(folder) if not is_lock(name)}
        code = _Code(folder, recipe, [name for name in files if name.endswith(".py")])
        return {name: hash_file(path) for name, path in files.items() if code.reads(name)}
    except OSError as error:
        raise ModelBuildError(
            f"recipe '{recipe.name}': cannot read {error.filename or folder}: {error.strerror}"
        ) from error


def grouped(files: Mapping[str, str]) -> dict[str, str]:
    """Return short hashes of files, with one for all of a large folder, so that a lock stays short."""
    folders: dict[str, dict[str, str]] = {}
    for name, digest in files.items():
        folders.setdefault(name.partition("/")[0] if "/" in name else "", {})[name] = digest
    found = {}
    for folder, members in folders.items():
        if folder and len(members) > _LISTED:
            found[f"{folder}/ ({len(members)} files)"] = short(members)
        else:
            found |= {name: digest[:DIGITS] for name, digest in members.items()}
    return found


def short(data: object) -> str:
    """Return the first digits of the hash of JSON-compatible data: enough to notice a change."""
    return hash_data(data)[:DIGITS]


def changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return which files differ, are new or are gone, in words."""
    words = {True: "is new", False: "changed"}
    return [
        f"{name} {'is gone' if name not in after else words[name not in before]}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def hash_packages(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what tells the code of distributions apart that are not from an index: their versions seldom change.

    Where a folder or file lies does not count, so that a lock holds on other machines.
    """
    return {name: source for name in names if (source := _source(name))}


def is_lock(name: str) -> bool:
    """Tell whether a file is a lock, or one that is being written."""
    return name.endswith((LOCK_SUFFIX, f"{LOCK_SUFFIX}.partial"))


def hash_building() -> str:
    """Return the SHA-256 of `cdk_inference.model.building`: a change of any file there voids every cached model."""
    return hash_folder(Path(__file__).parents[1] / "building")


def hash_code(recipe: ModelRecipe) -> str:
    """Return the SHA-256 of the code that decides what is built: `hash_building`, and the drivers of several graphs."""
    building = hash_building()
    if not isinstance(recipe.source, Graphs):
        return building
    from inference_runtime.engine import drivers  # noqa: PLC0415 - most models have one graph

    return hash_data([building, hash_folder(Path(drivers.__path__[0]))])


class _Code:
    """The Python files of a folder that a build may run.

    Parameters
    ----------
    folder
        The recipe's folder.
    recipe
        Names the files that run first.
    names
        All Python files.
    """

    def __init__(self, folder: Path, recipe: ModelRecipe, names: Sequence[str]) -> None:
        references = {*_references(recipe)}
        self._said = frozenset(_strings(recipe.to_data()))
        self._trees: dict[str, ast.Module] = {}
        self._opaque = False
        waiting = [name for name in names if name in references]
        while waiting and not self._opaque:
            name = waiting.pop()
            tree = _parse((folder / name).read_bytes())
            # Code that cannot be parsed, or that computes what it imports, may run anything.
            self._opaque = tree is None or any(_imports_anything(node) for node in ast.walk(tree))
            if tree is not None:
                self._trees[name] = tree
                known = {*self._trees, *waiting}
                waiting += [n for n in names if n not in known and _mentions(tree, PurePosixPath(n))]
        # A build imports code, and never runs it as a script.
        parts = [_parts(tree) for tree in self._trees.values()]
        self._imported, self._scripts = [code for code, _ in parts], [script for _, script in parts]
        self._lists = any(_lists_folders(tree) for tree in self._imported)

    def reads(self, name: str) -> bool:
        """Tell whether the build can read a file."""
        path = PurePosixPath(name)
        if name in self._said:
            return True
        if path.suffix == ".py":
            return self._opaque or name in self._trees
        if path.parts[0] in _PROJECT_FOLDERS or (len(path.parts) == 1 and _PROJECT.fullmatch(name)):
            return self._opaque or any(_mentions(tree, path) for tree in self._trees.values())
        return self._opaque or len(path.parts) > 1 or not self._is_made_by_hand(path)

    def _is_made_by_hand(self, file: PurePosixPath) -> bool:
        """Tell whether a file is named where the code runs as a script, and nowhere that the build runs."""
        return (
            not self._lists
            and any(_says(node, file) for script in self._scripts for node in ast.walk(script))
            and not any(_mentions(code, file) for code in self._imported)
        )


def _references(recipe: ModelRecipe) -> Iterator[str]:
    for reference in (recipe.evaluation.data, recipe.evaluation.metric, recipe.calibration or ""):
        yield reference.partition(":")[0]
    for source in sources_of(recipe.source):
        if isinstance(source, TorchModule):
            yield source.factory.partition(":")[0]


def _strings(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for member in data.values() if isinstance(data, dict) else data:
            yield from _strings(member)


def _parse(text: bytes) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _parts(tree: ast.Module) -> tuple[ast.Module, ast.Module]:
    """Return what a module runs when it is imported, and what only a script runs."""
    scripts = [node for node in tree.body if isinstance(node, ast.If) and not node.orelse and _is_main(node.test)]
    imported = [node for node in tree.body if node not in scripts]
    return ast.Module(imported, []), ast.Module([each for node in scripts for each in node.body], [])


def _is_main(test: ast.expr) -> bool:
    return ast.unparse(test) == "__name__ == '__main__'"


def _lists_folders(tree: ast.Module) -> bool:
    """Tell whether code finds files without naming them."""
    names = (getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree))
    return any(_LISTING.fullmatch(name) for name in names)


def _imports_anything(node: ast.AST) -> bool:
    """Tell whether code imports or runs a module whose name it computes."""
    if not isinstance(node, ast.Call) or (node.args and isinstance(node.args[0], ast.Constant)):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return bool(_IMPORTERS.fullmatch(name))


def _mentions(tree: ast.Module, file: PurePosixPath) -> bool:
    """Tell whether code imports a file as a module, or has its name, or the suffix of such files, in a text."""
    module = file.parent.name if file.stem == "__init__" else file.stem
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                found = any(module in alias.name.split(".") for alias in names)
            case ast.ImportFrom(source, names):
                found = module in (source or "").split(".") or any(alias.name == module for alias in names)
            case ast.Constant(str() as text):
                found = _says(node, file) or (file.suffix == ".py" and module in text.split("."))
            case _:
                found = False
        if found:
            return True
    return False


def _says(node: ast.AST, file: PurePosixPath) -> bool:
    """Tell whether a node is a text with a file's name, or with the suffix of such files."""
    text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and (file.name in text or text.endswith(f"*{file.suffix}") or text == file.suffix)


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
