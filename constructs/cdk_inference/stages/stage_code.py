"""The code of a stage: its entry, options, files and requirements."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LABELS_FILE = "labels.txt"

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocabulary.txt"

PROTOTYPES_FILE = "prototypes.npy"

_STAGE = "STAGE"

_MAX_INLINE_OPTIONS = 1_000  # bytes; a function's environment holds 4 KB in all

# Names that the runtime itself has in the package.
_TAKEN = frozenset(
    {
        *("inference_runtime", "model", LABELS_FILE, PROTOTYPES_FILE, TOKENIZER_FILE, VOCABULARY_FILE),
        *("stage_options.json", "explanation.json", "explanation_tokens.json"),
    }
)

BUILTIN = "inference_runtime.stages.builtin"

PICTURE = "picture"
"""The name under which preprocessing keeps where in a picture is what the model saw."""

SECONDS = "seconds"
"""The name under which preprocessing keeps how long a recording is."""

STOP = "stop"
"""The name under which preprocessing keeps the strings that end the text of an object."""


@dataclass(frozen=True)
class StageCode:
    """The code of a stage, as its function is told about it.

    Attributes
    ----------
    function
        ``module:attribute`` in the function's package.
    options
        If not ``None``, the attribute is a factory, called with these once at start-up.
    requirements
        Packages besides those of the runtime, as pip writes them, and requirements files.
    excluded_requirements
        Packages that stay out although one of those asks for them.
    sources
        Files and folders to put into the package, by their name in it.
    runtime_requirements
        Name of the runtime's own list of pinned packages.
    """

    function: str
    options: Mapping[str, object] | None = None
    requirements: tuple[str | Path, ...] = ()
    excluded_requirements: tuple[str, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    runtime_requirements: str = "preprocess-base"

    def environment(self, prefix: str = _STAGE) -> dict[str, str]:
        """Return the variables by which the runtime finds the stage.

        Parameters
        ----------
        prefix
            The beginning of their names: in a function with several stages, each has its own.
        """
        variables = {f"{prefix}_FUNCTION": self.function}
        if len(self._options) > _MAX_INLINE_OPTIONS:
            variables[f"{prefix}_OPTIONS_FILE"] = _options_file(prefix)
        elif self.options is not None:
            variables[f"{prefix}_OPTIONS"] = self._options.decode()
        return variables

    def files(self, prefix: str = _STAGE) -> dict[str, Path | bytes]:
        """Return what to put into the package: the sources, and options that the environment would not hold."""
        too_long = len(self._options) > _MAX_INLINE_OPTIONS
        return {**self.sources, **({_options_file(prefix): self._options} if too_long else {})}

    def package(self, handler: str) -> ZipPackage:
        """Return the package of a function that runs this stage alone."""
        return ZipPackage(
            handler=handler,
            runtime_requirements=self.runtime_requirements,
            requirements=self.requirements,
            excluded_requirements=self.excluded_requirements,
            sources=self.files(),
        )

    @property
    def _options(self) -> bytes:
        if self.options is None:
            return b""
        return json.dumps(self.options, sort_keys=True, ensure_ascii=False).encode()


def _options_file(prefix: str) -> str:
    return f"{prefix.lower()}_options.json"


def user_code(
    entry: str | Path,
    requirements: Sequence[str] | Path | str,
    sources: Sequence[str | Path],
    *,
    takes: Sequence[str],
    runtime_requirements: str = "preprocess-base",
) -> StageCode:
    """Return the code of a function of the user's that takes these arguments.

    Raises
    ------
    PropError
        The file or the function does not exist, or does not take them.
    """
    file, colon, name = str(entry).rpartition(":")
    path = Path(file)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.stem.isidentifier():
        raise PropError(f"entry must be of the form 'path/to/file.py:function', got '{entry}'")
    if not path.is_file():
        raise PropError(f"entry must be an existing file, got '{path}'; looked in {Path.cwd()}")
    _check_function(path, name, takes)
    needs: tuple[str | Path, ...]
    if isinstance(requirements, str | Path):
        needs = (Path(requirements),)
        if not needs[0].is_file():
            raise PropError(f"requirements must be an existing file, got '{requirements}'; looked in {Path.cwd()}")
    else:
        needs = tuple(requirements)
    files: dict[str, Path] = {}
    for source in (path, *map(Path, sources)):
        if not source.exists():
            raise PropError(f"sources must be existing files or folders, got '{source}'; looked in {Path.cwd()}")
        name_in_package = source.resolve().name
        if name_in_package in _TAKEN or name_in_package in files:
            raise PropError(
                f"sources must have unique names in the package, got '{source}' and something else called "
                f"'{name_in_package}'; rename it"
            )
        files[name_in_package] = source
    return StageCode(
        f"{path.stem}:{name}", requirements=needs, sources=files, runtime_requirements=runtime_requirements
    )


def _check_function(path: Path, name: str, takes: Sequence[str]) -> None:
    """Look for the function without importing the file: its requirements need not be installed here."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise PropError(f"entry must be valid Python, got '{path}': {error}") from None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            needed = len(positional) - len(arguments.defaults) + sum(d is None for d in arguments.kw_defaults)
            if needed > len(takes) or (len(positional) < len(takes) and not arguments.vararg):
                raise PropError(
                    f"entry must be a function of ({', '.join(takes)}), got '{name}' in '{path}' with other arguments"
                )
            return
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    raise PropError(f"entry must be a function in '{path}', got '{name}'; it has {', '.join(found) or 'none'}")


def shape_text(shape: Sequence[int | str]) -> str:
    """Return a shape as messages show it."""
    return "(" + ", ".join(str(axis) for axis in shape) + ")"


def read_lines(path: Path, prop: str) -> list[str]:
    """Return the lines of a text file that a prop names.

    Raises
    ------
    PropError
        The file does not exist, or is not text in UTF-8.
    """
    if not path.is_file():
        raise PropError(f"{prop} must be an existing file, got '{path}'; looked in {Path.cwd()}")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PropError(f"{prop} must be a text file in UTF-8 with one name a line, got '{path}'; convert it") from None
