"""Loads a program of ``torch.export.save``, after making sure that loading it runs no code of the file's.

``torch.export.load`` unpickles parts of an archive, evaluates its symbolic expressions as Python, looks its operators
up by attribute, such as ``torch.os.system``, and writes its names into source code that it then runs. So each of these
is checked first, and what `torch.export.save` does not write for a plain model is refused.
"""

from __future__ import annotations

import ast
import json
import logging
import re
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.importers.archive import check_archive, describe_file, shorten
from cdk_inference.model.building.importers.export import TorchModel, check_tensors
from cdk_inference.model.building.importers.tensors import check_size, spell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cdk_inference.model.recipe.tensors import Declared

_FOLDERS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "extra/", ".data/")
_RECORDS = frozenset(("archive_format", "archive_version", "byteorder", "version"))
_NAME = re.compile(r"[\w.@-]*", re.ASCII)
_NAMES = frozenset(("name", "as_name", "fqn", "class_fqn", "buffer_name", "parameter_name", "user_input_name"))
_NAMES |= {"tensor_constant_name", "custom_obj_name", "path_name"}
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_FILE_OPERATORS = frozenset(("from_file", "save"))  # they read and write files
_HIGHER_ORDER = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_SCALAR = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(trunc|ceil|floor)|torch\._?sym_\w+"
)
_TREES = frozenset((None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))
_EXPRESSIONS = frozenset(
    (
        *(
            "Symbol",
            "Integer",
            "Float",
            "Rational",
            "Add",
            "Mul",
            "Pow",
            "Mod",
            "Max",
            "Min",
            "Abs",
            "floor",
            "ceiling",
        ),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Equality", "Unequality", "GreaterThan"),
        *("LessThan", "StrictGreaterThan", "StrictLessThan", "FloorDiv", "ModularIndexing", "Where", "PythonMod"),
        *("CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow"),
        *("FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt"),
        *("RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
    )
)
_SIZES = frozenset(("size", "stride", "storage_offset", "dim", "numel", "shape", "ndim"))
_MAX_EXPRESSION = 2000  # characters
_POWERS = frozenset(("Pow", "PowByNatural", "FloatPow", "LShift"))
_NUMBERS = frozenset(("Integer", "Float", "Rational"))
_MAX_POWER = 64


def load_program(recipe: Declared, path: Path) -> TorchModel:
    """Return the program in a ``.pt2`` file.

    Raises
    ------
    ModelBuildError
        If the file is damaged, could run code when it is loaded, or holds another program than the recipe declares.
    """
    if (kind := describe_file(path)) != "zip":
        raise ModelBuildError(f"program {path.name} must be a .pt2 file of torch.export.save, got {kind}")
    check_archive(path)
    check_size(path.stat().st_size, f"program {path.name}")
    try:
        check_program(path)
        program = _load(path)
    except ModelBuildError:
        raise
    except Exception as error:
        raise ModelBuildError(
            f"program {path.name} cannot be read by torch {torch.__version__.partition('+')[0]}: {shorten(error)}; "
            "save it again with this version"
        ) from error
    subject = f"program {path.name}"
    check_tensors(
        {**program.state_dict, **program.constants}, f"weights of {subject}", "save it again after module.float()"
    )
    _check_inputs(program, recipe, subject)
    # A program's checks of its inputs are Python code too; the recipe's declarations take its place. The exporter
    # runs that code if there are example inputs.
    program.example_inputs = None
    module = program.module(check_guards=False)
    return TorchModel(recipe, path.parent, _Unflattened(program, module), subject, program)


def _load(path: Path) -> torch.export.ExportedProgram:
    """Load a program; torch logs what went wrong, and raises something else."""
    reasons: list[BaseException] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                reasons.append(record.exc_info[1])

    logger, listener = logging.getLogger("torch.export"), Listener()
    logger.addHandler(listener)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise (reasons or [error])[0] from error
    finally:
        logger.removeHandler(listener)


class _Unflattened(torch.nn.Module):
    """Calls a program with its inputs in a row, whatever its arguments were."""

    def __init__(self, program: torch.export.ExportedProgram, module: torch.nn.Module) -> None:
        super().__init__()
        self._tree = program.call_spec.in_spec
        self._program_module = module

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what programs return
        """Call the program."""
        arguments, keywords = self._tree.unflatten(inputs)
        return self._program_module(*arguments, **keywords)


def check_program(path: Path) -> None:
    """Refuse what could run code when torch loads the archive.

    Raises
    ------
    ModelBuildError
        Naming the part.
    """
    archive = PT2ArchiveReader(str(path))  # the reader that torch loads it with, so both see the same
    names = archive.get_file_names()
    programs = [name for name in names if name.startswith("models/")]
    for name in names:
        if name.startswith("data/aotinductor/"):
            _refuse(path, "has compiled code; save the program with torch.export.save")
        if name not in _RECORDS and not name.startswith(_FOLDERS):
            _refuse(path, f"has a record '{name}', which torch.export.save does not write")
        if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
            _refuse(path, f"has pickled weights in '{name}', as torch wrote before 2.9; save it again")
    if programs != ["models/model.json"]:
        _refuse(path, f"has the programs ({', '.join(programs)}), must have one, models/model.json")
    for name in names:
        if name.endswith(".json") and not name.startswith("extra/"):
            _check_json(path, json.loads(archive.read_bytes(name)))


def _refuse(path: Path, reason: str) -> None:
    raise ModelBuildError(f"program {path.name} cannot be trusted: it {reason}")


def _check_json(path: Path, data: Any) -> None:  # noqa: ANN401 - JSON
    for key, value in _members(data):
        if key in _NAMES and isinstance(value, str) and not _NAME.fullmatch(value):
            _refuse(path, f"has the name {value[:80]!r}")
        elif key == "forward_arg_names" and not all(_NAME.fullmatch(str(name)) for name in value or ()):
            _refuse(path, f"has the argument names {value!r:.80}")
        elif key in ("target", "as_operator") and isinstance(value, str) and not _is_operator(value):
            _refuse(path, f"calls {value[:80]!r}, which is no operator of torch that models use")
        elif key == "expr_str" and not _is_expression(value):
            _refuse(path, f"has the size {value!r:.80}")
        elif key == "guards_code" and not all(_is_guard(guard) for guard in value):
            _refuse(path, f"has the guard {next(guard for guard in value if not _is_guard(guard))!r:.80}")
        elif key in ("in_spec", "out_spec") and isinstance(value, str) and not _is_tree(json.loads(value)[1]):
            _refuse(path, "has arguments or results that are no tuples, lists or dicts of tensors")
        elif key == "use_pickle" and value:
            _refuse(path, "has pickled weights, which could run any code; export a module with plain tensors")
        elif key in ("custom_obj", "as_custom_obj", "class_fqn"):
            _refuse(path, "has objects that are no tensors; export a module without them")
        elif key == "path_name" and not str(value).startswith(("weight_", "tensor_")):
            _refuse(path, f"has a constant in '{value!s:.80}', which is no tensor")


def _members(data: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    pending = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _is_operator(target: str) -> bool:
    if aten := _ATEN.fullmatch(target):
        return aten.group(1) not in _FILE_OPERATORS
    return bool(_HIGHER_ORDER.fullmatch(target) or _SCALAR.fullmatch(target))


def _is_expression(text: object) -> bool:
    """Tell whether sympy can evaluate a text, as it does with Python's ``eval``, without running anything."""
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION or not text.isascii() or not text.isprintable():
        return False
    return all(_is_part(node) for node in _parse(text))


def _is_guard(text: object) -> bool:
    """Tell whether a condition on the inputs, such as ``L['x'].size()[0] <= 64``, does nothing else."""
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION or not text.isascii() or not text.isprintable():
        return False
    for node in _parse(text):
        match node:
            case ast.Attribute(value=ast.Name(id="math"), attr=name):
                allowed = not name.startswith("_")
            case ast.Attribute(attr=name):
                allowed = name in _SIZES
            case ast.Call(func=ast.Attribute()):
                allowed = True
            case ast.Subscript() | ast.Compare() | ast.cmpop() | ast.BoolOp() | ast.boolop():
                allowed = True
            case _:
                allowed = _is_part(node)
        if not allowed:
            return False
    return True


def _parse(text: str) -> list[ast.AST]:
    """Return all nodes of an expression; for what is none, one that is never allowed."""
    try:
        return list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [ast.Pass()]


def _is_part(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _POWERS:
            allowed = _degree(node) <= _MAX_POWER
        case ast.Call(func=function):
            allowed = isinstance(function, ast.Name) and function.id in _EXPRESSIONS
        case ast.Name(id=name):
            allowed = not name.startswith("_")
        case ast.Constant(value=value):
            allowed = isinstance(value, int | float) or (isinstance(value, str) and bool(_NAME.fullmatch(value)))
        case ast.BinOp(op=operator):
            allowed = isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv | ast.Mod)
        case _:
            allowed = isinstance(node, ast.Expression | ast.expr_context | ast.keyword | ast.UnaryOp | ast.unaryop)
            allowed = allowed or isinstance(node, ast.operator)
    return allowed


def _degree(node: ast.AST) -> float:
    """Return a bound of the power to which an expression raises: towers of powers would never be computed.

    Infinite if an exponent is not a number.
    """
    degree = 1.0
    for part in ast.walk(node):
        match part:
            case ast.Call(func=ast.Name(id=name)) if name in _POWERS:
                degree *= _exponent(part)
    return degree


def _exponent(power: ast.Call) -> float:
    match power:
        case ast.Call(args=[_, exponent], keywords=[]):
            found = list(ast.walk(exponent))
            names = {n.id for n in found if isinstance(n, ast.Name)}
            numbers = [n.value for n in found if isinstance(n, ast.Constant)]
            plain = (ast.Call, ast.Name, ast.Constant, ast.UnaryOp, ast.unaryop, ast.expr_context)
            if names <= _NUMBERS and all(isinstance(n, plain) for n in found):
                return max([1.0, *(abs(n) if isinstance(n, int | float) else inf for n in numbers)])
    return inf


def _is_tree(node: Any) -> bool:  # noqa: ANN401 - JSON
    """Tell whether a description of nested arguments has nothing but containers: others would be imported."""
    if not isinstance(node, dict) or node.get("type") not in _TREES:
        return False
    context = node.get("context")
    if isinstance(context, str):
        context = json.loads(context)
    keys = context if isinstance(context, list) else [] if context is None else [None]
    plain = all(isinstance(key, str | int) and _NAME.fullmatch(str(key)) for key in keys)
    return plain and all(_is_tree(child) for child in node.get("children_spec", ()))


def _check_inputs(program: torch.export.ExportedProgram, recipe: Declared, subject: str) -> None:
    """Compare the program's inputs with the declared ones: a size that it fixed cannot become symbolic again."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    names = program.graph_signature.user_inputs
    tensors = [t for name in names if isinstance(t := values.get(str(name)), torch.Tensor)]
    if len(tensors) != len(names):
        raise ModelBuildError(f"{subject}: its inputs ({', '.join(map(str, names))}) must all be tensors")
    symbols = {str(d): f"size_{i}" for i, d in enumerate({str(d): 0 for t in tensors for d in t.shape if _symbolic(d)})}
    found: list[tuple[str, list[str | int]]] = []
    for tensor in tensors:
        shape: list[str | int] = [symbols[str(d)] if _symbolic(d) else int(d) for d in tensor.shape]
        found.append((str(tensor.dtype).removeprefix("torch."), shape))
    fits = len(found) == len(recipe.inputs) and all(
        dtype == spec.dtype
        and len(shape) == len(spec.shape)
        and all(isinstance(d, str) or d == s for d, s in zip(shape, spec.shape, strict=True))
        for (dtype, shape), spec in zip(found, recipe.inputs, strict=True)
    )
    if not fits:
        actual = ", ".join(spell(str(name), *tensor) for name, tensor in zip(names, found, strict=True))
        declared = ", ".join(spell(s.name, s.dtype, s.shape) for s in recipe.inputs)
        raise ModelBuildError(
            f"{subject} must have {declared}, as the recipe declares, got {actual}; declare what it has, "
            "or export it again with dynamic_shapes"
        )


def _symbolic(size: object) -> bool:
    return isinstance(size, torch.SymInt)
