"""The stage that the arguments of the command line name: a function of the user's, or a built-in one with options."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.stages.preprocess import Preprocess

Kind = Literal["preprocess", "postprocess"]

_BEFORE: tuple[Kind, ...] = ("preprocess",)
_AFTER: tuple[Kind, ...] = ("postprocess",)

BUILTIN: dict[str, tuple[Kind, ...]] = {
    "image": _BEFORE,
    "json": _BEFORE,
    "csv": _BEFORE,
    "text": _BEFORE + _AFTER,
    "audio": _BEFORE,
    "tensor": _BEFORE,
    "raw_tensor": _BEFORE,
    "classification": _AFTER,
    "detection": _AFTER,
    "segmentation": _AFTER,
    "embedding": _AFTER,
    "nearest": _AFTER,
    "ctc": _AFTER,
    "segments": _AFTER,
    "outputs": _AFTER,
}
"""The class methods of `Preprocess` and `Postprocess` that need no code; of those with both, the first is meant."""


def kind_of(stage: str) -> Kind:
    """Return what kind of stage this is: built-in ones are known, and yours say so by their first parameter."""
    if stage in BUILTIN:
        return BUILTIN[stage][0]
    file, _, name = stage.rpartition(":")
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "preprocess"  # loading it says what is wrong
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            parameters = [*node.args.posonlyargs, *node.args.args]
            return "postprocess" if parameters and parameters[0].arg == "outputs" else "preprocess"
    return "preprocess"


def chosen(stage: str, options: Sequence[str], kind: Kind) -> Preprocess | Postprocess | str:
    """Return a stage that can be run.

    Parameters
    ----------
    stage
        ``path/to/file.py:function``, or the name of a built-in stage.
    options
        Options of a built-in stage, ``name=value``; a value is JSON, or text that is not JSON.
    kind
        Whether it is to be a preprocessing or a postprocessing.

    Raises
    ------
    PropError
        The stage or an option is unknown, or an option has a wrong value.
    """
    if stage not in BUILTIN:
        if ":" not in stage:
            raise PropError(f"stage must be 'path/to/file.py:function' or one of {', '.join(BUILTIN)}, got '{stage}'")
        if options:
            raise PropError(f"option must be left out with a function of yours, got '{options[0]}'")
        return stage
    if kind not in BUILTIN[stage]:
        names = ", ".join(name for name, kinds in BUILTIN.items() if kind in kinds)
        raise PropError(f"{kind} must be 'path/to/file.py:function' or one of {names}, got '{stage}'")
    # Here, since it loads AWS CDK, which a function of the user's needs not.
    from cdk_inference.stages.postprocess import Postprocess  # noqa: PLC0415
    from cdk_inference.stages.preprocess import Preprocess  # noqa: PLC0415

    values = dict(map(_option, options))
    make: Any = getattr(Preprocess if kind == "preprocess" else Postprocess, stage)
    try:
        inspect.signature(make).bind(**values)
    except TypeError as error:
        names = ", ".join(inspect.signature(make).parameters) or "none"
        raise PropError(f"options must be those of {make.__qualname__}, {names}, got {values}: {error}") from None
    found: Preprocess | Postprocess = make(**values)
    return found


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise PropError(f"option must be of the form name=value, got '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
