"""Old names of props, attributes and classes, which work with a warning for one release."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T", bound="Callable[..., object]")

RENAMED_PROPS = "_renamed_props"

_PASSED_OVER = ("cdk_inference", "jsii", "functools")


def warn_deprecated(old: str, new: str) -> None:
    """Warn of an old spelling at the line of the caller outside of this library."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED_OVER:
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"{old} is deprecated and will be removed in the next release; use {new}", DeprecationWarning, stacklevel=level
    )


def renamed_props(**names: str | tuple[str, Callable[[Any], object]]) -> Callable[[T], T]:
    """Accept props under their old names; goes below `check_props`, on a class or a method.

    Parameters
    ----------
    **names
        New name by old name; with a function that converts the value where the type has changed too.
    """

    def decorate(target: T) -> T:
        function = vars(target)["__init__"] if isinstance(target, type) else target
        setattr(function, RENAMED_PROPS, names)
        return target

    return decorate


def with_new_names(
    names: Mapping[str, str | tuple[str, Callable[[Any], object]]], function: str, kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Return the arguments of a call by their new names.

    Raises
    ------
    PropError
        An argument has both its old and its new name.
    """
    renamed = dict(kwargs)
    for old in names.keys() & kwargs.keys():
        entry = names[old]
        new, convert = entry if isinstance(entry, tuple) else (entry, None)
        owner = function.removesuffix(".__init__")
        warn_deprecated(f"{owner}({old}=…)", f"{new}=")
        if new in kwargs:
            raise PropError(f"{owner} must have {new} or {old}, got both; remove {old}, its old name")
        value = renamed.pop(old)
        renamed[new] = value if convert is None or value is None else convert(value)
    return renamed


def renamed_attribute(old: str, new: str) -> property:
    """Return a property for an old name.

    Parameters
    ----------
    old
        The old name, with its class.
    new
        The attribute to use, such as ``stages.preprocess``.
    """
    return property(partial(_read, old, new), doc=f"Deprecated: use `{new}`.")


def _read(old: str, new: str, instance: object) -> object:
    warn_deprecated(old, f".{new}")
    return attrgetter(new)(instance)
