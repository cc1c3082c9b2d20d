"""One check of what constructs, factories and descriptors are given, against their own annotations.

typeguard, which comes with jsii, takes ``True`` for an int, refuses CDK's number tokens and does not check jsii's
interfaces. Its versions differ in their API, and jsii decides which one is installed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from importlib import import_module
from itertools import starmap, zip_longest
from types import FunctionType, UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from cdk_inference.errors import PropError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
Hint = Any
"""An annotation: a class, or a form of `typing`."""


def check_props(cls: C) -> C:
    """Check the arguments of a class's own constructor, factories and methods whenever they are called.

    Options that a method hands on to CDK are not checked.
    """
    for name, member in list(vars(cls).items()):
        if name == "__init__" or (inspect.isfunction(member) and not name.startswith("_")):
            setattr(cls, name, check_arguments(member))
        elif isinstance(member, classmethod | staticmethod) and not name.startswith("_"):
            setattr(cls, name, type(member)(check_arguments(member.__func__)))
    return cls


def check_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check a function's arguments against its annotations whenever it is called.

    The function then raises a `PropError` that names the argument, its type, the value and a fix.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _check(cast("FunctionType", function), args, kwargs)
        return function(*args, **kwargs)

    return checked


class Wrong(NamedTuple):
    """A value, or an element of one, that does not fit its annotation."""

    name: str
    value: object
    hint: Hint


class _Prop(NamedTuple):
    module: str
    annotation: object
    default: object = inspect.Parameter.empty


@cache
def _props(function: FunctionType) -> tuple[Mapping[str, _Prop], bool]:
    """Return what a function takes, in order, and whether these are all the names that it takes."""
    props, closed, module = {}, True, function.__module__
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            props[parameter.name] = _Prop(module, parameter.annotation, parameter.default)
        elif options := get_args(_resolve(module, parameter.annotation, load=True)):  # Unpack[a TypedDict]
            own = options[0].__annotations__.items()
            props |= {name: _Prop(options[0].__module__, hint.__forward_arg__) for name, hint in own}
        else:
            closed = False
    return props, closed


def _check(function: FunctionType, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    props, closed = _props(function)
    for name, value in (*zip(props, args, strict=False), *kwargs.items()):
        prop = props.get(name)
        if prop is None and closed:
            from cdk_inference.common.prop_messages import unknown_prop  # noqa: PLC0415 - only for messages

            raise PropError(unknown_prop(function.__qualname__, name, props))
        if prop is None or value is prop.default or not isinstance(prop.annotation, str):
            continue
        if wrong := _wrong_argument(prop.module, name, value, prop.annotation):
            from cdk_inference.common.prop_messages import wrong_type  # noqa: PLC0415 - only for messages

            raise PropError(wrong_type(wrong, prop.default))


def _wrong_argument(module: str, name: str, value: object, annotation: str) -> Wrong | None:
    # Nothing is of a type whose module was not imported, so that only a message has to import it.
    if find_wrong(name, value, _resolve(module, annotation, load=False)) is None:
        return None
    return find_wrong(name, value, _resolve(module, annotation, load=True))


def _resolve(module: str, annotation: str, *, load: bool) -> Hint:
    try:
        return eval(annotation, vars(sys.modules[module]), _GuardedNames(module, load=load))  # noqa: S307 - our source
    except NameError:  # installed without sources: nothing is known of what only type checkers import
        return Any


class _Absent:
    """Stands for a type in a module that was not imported, so that nothing is of this type."""

    def __getattr__(self, _: str) -> _Absent:
        return self

    def __or__(self, other: object) -> object:
        return other

    __ror__ = __or__


_ABSENT = _Absent()


class _GuardedNames(dict[str, Hint]):
    """What a module imports under ``if TYPE_CHECKING``, found when an annotation names it."""

    def __init__(self, module: str, *, load: bool) -> None:
        self._module, self._load = module, load

    def __missing__(self, name: str) -> Hint:
        if name in vars(sys.modules[self._module]):
            raise KeyError(name)  # where `eval` looks next
        parent, attribute = _guarded_imports(self._module)[name]
        if self._load:
            import_module(parent)
        found = vars(sys.modules.get(parent, _ABSENT)).get(attribute)
        path = f"{parent}.{attribute}"
        if found is None and (self._load or path in sys.modules):
            found = import_module(path)
        return _ABSENT if found is None else found


@cache
def _guarded_imports(module: str) -> dict[str, tuple[str, str]]:
    """Return the module and the name there of what a module imports for type checkers only."""
    try:
        lines = inspect.getsource(sys.modules[module]).splitlines()
    except OSError:
        return {}
    if "if TYPE_CHECKING:" not in lines:
        return {}
    start = lines.index("if TYPE_CHECKING:")
    end = next((n for n, line in enumerate(lines) if n > start and line and not line.startswith(" ")), len(lines))
    imports = ast.walk(ast.parse("\n".join(lines[start:end])))
    statements = [statement for statement in imports if isinstance(statement, ast.ImportFrom)]
    return {a.asname or a.name: (str(statement.module), a.name) for statement in statements for a in statement.names}


def is_union(hint: Hint) -> bool:
    """Tell whether an annotation is ``A | B``."""
    return get_origin(hint) in {Union, UnionType}


def find_wrong(name: str, value: object, hint: Hint) -> Wrong | None:
    """Return what of a value does not fit an annotation, or ``None``."""
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
        pairs = zip_longest(cast("tuple[object, ...]", value), args, fillvalue=_ABSENT)
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
        return (isinstance(value, int | kind) and not isinstance(value, bool)) or _is_number_token(value)
    if type(value).__name__ == "InterfaceDynamicProxy":  # CDK returned it as one or more interfaces
        return any(_is(delegate, kind) for delegate in vars(value)["_delegates"])
    if getattr(kind, "_is_protocol", False):
        # Read statically: a property of jsii asks Node.
        found = (inspect.getattr_static(value, member, _ABSENT) for member in _members(kind))
        return not isinstance(value, type) and all(member is not _ABSENT for member in found)
    return isinstance(value, kind)


def _is_number_token(value: object) -> bool:
    """Tell whether only the deployment knows the number; CDK stands a float for it."""
    cdk = sys.modules.get("aws_cdk")
    return cdk is not None and isinstance(value, float) and bool(cdk.Token.is_unresolved(value))


@cache
def _members(protocol: type) -> frozenset[str]:
    kinds = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    names = {name for kind in kinds for name in (*vars(kind), *inspect.get_annotations(kind))}
    return frozenset(name for name in names if not name.startswith("_"))
