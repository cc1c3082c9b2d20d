"""One check of what constructs, factories and descriptors are given, against their own annotations.

typeguard, which comes with jsii, takes ``True`` for an int, refuses CDK's number tokens and does not check jsii's
interfaces. Its versions differ in their API, and jsii decides which one is installed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast, get_args

from cdk_inference.common.props.deprecations import RENAMED_PROPS, with_new_names
from cdk_inference.common.props.prop_messages import unknown_prop, wrong_type
from cdk_inference.common.props.type_checks import ABSENT, Hint, Wrong, find_wrong
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FunctionType

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


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
    renamed = getattr(function, RENAMED_PROPS, {})

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        named = with_new_names(renamed, function.__qualname__, kwargs) if renamed else kwargs
        _check(cast("FunctionType", function), args, named)
        return function(*args, **named)  # type: ignore[arg-type]

    return checked


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
            raise PropError(unknown_prop(function.__qualname__, name, props))
        if prop is None or name == "self" or value is prop.default or not isinstance(prop.annotation, str):
            continue
        if wrong := _wrong_argument(prop.module, name, value, prop.annotation):
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


class _GuardedNames(dict[str, Hint]):
    """Names that a module imports under ``if TYPE_CHECKING``, found when an annotation uses them."""

    def __init__(self, module: str, *, load: bool) -> None:
        self._module, self._load = module, load

    def __missing__(self, name: str) -> Hint:
        if name in vars(sys.modules[self._module]):
            raise KeyError(name)  # where `eval` looks next
        parent, attribute = _guarded_imports(self._module)[name]
        if self._load:
            import_module(parent)
        found = vars(sys.modules.get(parent, ABSENT)).get(attribute)
        path = f"{parent}.{attribute}"
        if found is None and (self._load or path in sys.modules):
            found = import_module(path)
        return ABSENT if found is None else found


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
