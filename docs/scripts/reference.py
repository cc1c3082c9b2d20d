"""Shows in the reference what a reader of a signature wants to know.

It is an extension of griffe, which reads the source for the reference. A default that the source names, such as
``_BATCH_SIZE``, becomes its value. Fields that share a description, such as ``width, height``, have a default each.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import griffe

_SHARED = re.compile(r"^(\w+(?:, \w+)+)\n((?: +.*\n?|\n(?= ))+)", re.MULTILINE)
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*\b")
_SHOWN = (bool, int, float, str, tuple)


class Reference(griffe.Extension):
    """Mends each public object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Mend the description, and the defaults of a function or of a dataclass."""
        if obj.docstring:
            obj.docstring.value = _SHARED.sub(_split, obj.docstring.value)
        for part in obj.parameters if isinstance(obj, griffe.Function) else ():
            part.default = _value(obj, part.default)
        if isinstance(obj, griffe.Attribute):
            obj.value = _value(obj, obj.value)


def _split(field: re.Match[str]) -> str:
    return "".join(f"{name}\n{field[2].rstrip()}\n" for name in field[1].split(", ")) + "\n" * field[2].endswith("\n\n")


def _value(obj: griffe.Object, default: Any) -> Any:  # noqa: ANN401 - an expression of griffe's
    """Return the value of a default that begins with a constant; others stay as they are written."""
    if not _CONSTANT.match(str(default)):
        return default
    try:
        value = eval(str(default), vars(importlib.import_module(obj.module.path)))  # noqa: S307 - our source
    except NameError:  # an attribute that is made of arguments
        return default
    return repr(value) if isinstance(value, _SHOWN) else default if str(default)[0] != "_" else "{…}"
