"""Compares a value with an annotation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import starmap, zip_longest
from math import isfinite
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin, is_typeddict

Hint = Any
"""An annotation: a class, or a form of `typing`."""


class Wrong(NamedTuple):
    """A value, or an element of one, that does not fit its annotation."""

    name: str
    value: object
    hint: Hint


class Absent:
    """Stands for a type in a module that was not imported, so that nothing is of this type."""

    def __getattr__(self, _: str) -> Absent:
        return self

    def __or__(self, other: object) -> object:
        return other

    __ror__ = __or__


ABSENT = Absent()


def is_union(hint: Hint) -> bool:
    """Tell whether an annotation is ``A | B``."""
    return get_origin(hint) in {Union, UnionType}


def plain(hint: Hint) -> Hint:
    """Return a class of this library without its type arguments, and the bound of a type variable."""
    hint = getattr(hint, "__bound__", None) or hint
    origin = get_origin(hint)
    return origin if str(getattr(origin, "__module__", "")).startswith("cdk_inference") else hint


def find_wrong(name: str, value: object, hint: Hint) -> Wrong | None:
    """Return what of a value does not fit an annotation, or ``None``."""
    hint = plain(hint)
    origin: Any = get_origin(hint)
    args = get_args(hint)
    if is_union(hint):
        found = [find_wrong(name, value, arg) for arg in args]
        elements = [wrong for wrong in found if wrong and wrong.name != name]  # they say more than the whole
        return None if None in found else elements[0] if elements else Wrong(name, value, hint)
    if origin is Literal:  # which of its values it is, is checked where the message can explain them
        fits = isinstance(value, tuple({type(arg) for arg in args}))
    elif origin is None:
        fits = _is(value, hint)
    elif not isinstance(value, origin) or isinstance(value, str | bytes):
        fits = False
    elif origin is tuple and args[-1] is not Ellipsis:
        pairs = zip_longest(cast("tuple[object, ...]", value), args, fillvalue=ABSENT)
        fits = not any(find_wrong(name, *pair) for pair in pairs)
    else:
        return next((w for w in starmap(find_wrong, _elements(name, value, args)) if w), None)
    return None if fits else Wrong(name, value, hint)


def _elements(name: str, value: object, hints: Sequence[Hint]) -> Iterator[tuple[str, object, Hint]]:
    if isinstance(value, Mapping):
        yield from ((f"a key of {name}", key, hints[0]) for key in value)
        yield from ((f"{name}[{key!r}]", element, hints[1]) for key, element in value.items())
    elif isinstance(value, Sequence):
        yield from ((f"{name}[{n}]", element, hints[0]) for n, element in enumerate(value))


def _is(value: object, kind: Hint) -> bool:
    if not isinstance(kind, type):
        return kind is Any or (kind is None and value is None)
    if is_typeddict(kind):
        return isinstance(value, Mapping)
    if kind in {int, float}:
        return (isinstance(value, int | kind) and not isinstance(value, bool)) or is_number_token(value)
    if type(value).__name__ == "InterfaceDynamicProxy":  # CDK returned it as one or more interfaces
        return any(_is(delegate, kind) for delegate in vars(value)["_delegates"])
    if getattr(kind, "_is_protocol", False):
        # Read statically: a property of jsii asks Node.
        found = (inspect.getattr_static(value, member, ABSENT) for member in _members(kind))
        return not isinstance(value, type) and all(member is not ABSENT for member in found)
    return isinstance(value, kind)


def is_number_token(value: object) -> bool:
    """Tell whether only the deployment knows the number; CDK stands a float for it."""
    cdk = sys.modules.get("aws_cdk")
    # Node takes neither infinity nor NaN.
    return cdk is not None and isinstance(value, float) and isfinite(value) and bool(cdk.Token.is_unresolved(value))


@cache
def _members(protocol: type) -> frozenset[str]:
    kinds = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    names = {name for kind in kinds for name in (*vars(kind), *inspect.get_annotations(kind))}
    return frozenset(name for name in names if not name.startswith("_"))
