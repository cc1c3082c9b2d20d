"""Runs PyTorch models and exports them to ONNX."""

from __future__ import annotations

import gc
import re
import traceback
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from onnx import TensorProto
from torch.utils import _pytree as pytree

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.importers.archive import MAX_REASON, shorten
from cdk_inference.model.building.importers.tensors import check_batch, check_outputs, check_size, declare, rename
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.tensors import PLUS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.recipe.tensors import Declared, TensorSpec

OPSET = 18  # the lowest that the exporter writes without converting: the widest choice of runtimes

_FLOATS = (torch.float16, torch.float32, torch.float64)
_TRACED = 2  # sizes of the example are at least this
_LARGE = 2**16  # no model bounds a size by more

_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[3]))
_MULTIPLE = re.compile(r"(\d+)\*\w+")
_MISSING_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


class TorchModel:
    """A module, or what `torch.export` made of one.

    Parameters
    ----------
    recipe
        Declares the inputs, in the order of the module's arguments, and the outputs.
    folder
        The recipe's folder: errors are traced to its lines.
    module
        In evaluation mode.
    subject
        Names the model in messages.
    program
        The exported program, if that is where the module comes from.
    """

    def __init__(
        self,
        recipe: Declared,
        folder: Path,
        module: torch.nn.Module,
        subject: str,
        program: torch.export.ExportedProgram | None = None,
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._module = _Positional(module, [s.name for s in recipe.outputs])
        self._subject = subject
        self._program = program
        self.batch_wide = False

    def run(self, batch: Batch) -> list[np.ndarray[Any, Any]]:
        """Return the module's outputs for one batch."""
        sizes = check_batch(batch, self._recipe.inputs, f"an example for {self._subject}")
        with torch.inference_mode():
            try:
                result = self._module(*(torch.from_numpy(np.array(batch[s.name])) for s in self._recipe.inputs))
            except ModelBuildError:
                raise
            except Exception as error:
                shapes = ", ".join(f"{s.name} {s.dtype} {list(batch[s.name].shape)}" for s in self._recipe.inputs)
                raise ModelBuildError(
                    f"{self._subject}: the module cannot run on ({shapes}): {type(error).__name__}: "
                    f"{shorten(error)}{blame(error, self._folder)}"
                ) from error
        arrays = [_to_numpy(t, self._subject) for t in result]
        check_outputs(arrays, self._recipe.outputs, sizes, f"{self._subject}: the module")
        return arrays

    def export(self, batch: Batch, work: Path | None = None) -> onnx.ModelProto:
        """Trace the module with symbolic sizes as declared, and translate it."""
        check_batch(batch, self._recipe.inputs, f"an example for {self._subject}")
        # Declared names may be those of values inside, which the exporter does not notice.
        inputs = {f"_declared_input_{i}": s.name for i, s in enumerate(self._recipe.inputs)}
        outputs = {f"_declared_output_{i}": s.name for i, s in enumerate(self._recipe.outputs)}
        symbols = {
            d: torch.export.Dim(d.replace(PLUS, "_and_"))
            for s in self._recipe.inputs
            for d in s.shape
            if isinstance(d, str)
        }
        shapes = tuple(
            {i: symbols[d] for i, d in enumerate(s.shape) if isinstance(d, str)} for s in self._recipe.inputs
        )
        try:
            translated = torch.onnx.export(
                self._program or self._module,
                () if self._program else _example(batch, self._recipe.inputs),
                dynamo=True,
                dynamic_shapes=None if self._program else (shapes,),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:
            raise ModelBuildError(f"{self._subject} {self._explain(error)}") from error
        if translated is None:
            raise ModelBuildError(f"{self._subject} cannot be exported: the exporter returned nothing")
        if not self._program and translated.exported_program is not None:
            self._check_sizes(translated.exported_program, batch)
        initializers = translated.model.graph.initializers.values()
        size = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
        if work is not None and size > weights.LARGE:
            _put_aside(initializers, aside.Spool(work))
            _forget_weights()
        try:
            model = translated.model_proto
        except ValueError as error:  # protobuf's limit
            raise ModelBuildError(
                f"{self._subject} must be below 2 GB with its weights, got {size / 1e9:.1f} GB; use a smaller model, "
                "or split it into two"
            ) from error
        rename(model.graph, inputs | outputs)
        declare(model, self._recipe)
        return model

    def _check_sizes(self, program: torch.export.ExportedProgram, batch: Batch) -> None:
        """Make sure that symbolic sizes stayed so: the exporter gives up those that the module fixes or bounds."""
        values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        traced = [values[str(name)] for name in program.graph_signature.user_inputs]
        found: dict[str, str] = {}
        for spec, tensor in zip(self._recipe.inputs, traced, strict=True):
            for declared, size in zip(spec.shape, tensor.shape, strict=True):
                if isinstance(declared, str):
                    found[declared] = str(size)
        for declared, size in found.items():
            if size.isdecimal():
                raise ModelBuildError(
                    f"{self._subject} cannot be exported: it works for {declared} = {size} alone; "
                    f"declare {size} in place of '{declared}', or change the module"
                )
            if _is_sum(declared, found):
                continue
            same = [other for other, value in found.items() if value == size]
            if len(same) > 1 or not size.isidentifier():
                raise ModelBuildError(
                    f"{self._subject} cannot be exported: it does not work for each size of {declared}: "
                    f"{_demand(declared, size, same)}, or change the module"
                )

        bounds = {str(symbol): (limits.lower, limits.upper) for symbol, limits in program.range_constraints.items()}
        for declared, size in found.items():
            low, high = bounds.get(size, (0, _LARGE))
            for beyond in ((int(low) - 1) if low > _TRACED else 0, (int(high) + 1) if high < _LARGE else 0):
                if beyond and self._accepts(batch, declared, beyond):
                    raise ModelBuildError(
                        f"{self._subject} cannot be exported: it does something else if {declared} is {beyond}; "
                        f"declare a fixed size in place of '{declared}', or change the module"
                    )

    def _accepts(self, batch: Batch, symbol: str, size: int) -> bool:
        """Tell whether the module works with another size: what it does not accept, its graph need not."""
        resized = {}
        for spec in self._recipe.inputs:
            array = batch[spec.name]
            for axis, declared in enumerate(spec.shape):
                if declared == symbol:
                    array = np.take(array, np.arange(size) % array.shape[axis], axis)
            resized[spec.name] = array
        try:
            self.run(resized)
        except ModelBuildError:
            return False
        return True

    def _explain(self, error: BaseException) -> str:
        causes: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__
        for cause in causes:
            if isinstance(cause, ModelBuildError):
                return f"cannot be exported: {cause}"
            if missing := _MISSING_OPERATOR.search(str(cause)):
                return f"cannot use {missing.group(1)}, which ONNX export lacks; compute it from other operators"
        if type(error).__name__ == "TorchExportError" and len(causes) > 1:
            return f"cannot be exported: {self._explain_trace(causes[1])}"
        return f"cannot be translated to ONNX: {type(causes[-1]).__name__}: {shorten(causes[-1])}"

    def _explain_trace(self, error: BaseException) -> str:
        where = blame(error, self._folder)
        kind, text = type(error).__name__, str(error)
        if kind == "GuardOnDataDependentSymNode":
            return (
                f"its control flow depends on the values of tensors{where}; "
                "use torch.where or torch.cond, or take the value from a shape or a constant"
            )
        if "Constraints violated" in text:
            guard = re.search(r"satisfy the generated guard (.+?)\.?(\n|$)", text)
            symbols = re.search(r"Constraints violated \((.+?)\)", text)
            return (
                f"it does not work for each size of {symbols.group(1) if symbols else 'the symbolic axes'}"
                f"{where}; it demands {guard.group(1)[:MAX_REASON] if guard else shorten(error)}; declare a fixed size"
            )
        return f"{kind}: {shorten(error)}{where}"


class _Positional(torch.nn.Module):
    """Gives a module one form: arguments by position, and a tuple of the declared outputs."""

    def __init__(self, module: torch.nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self._outputs = outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module."""
        return tuple(select(self.module(*inputs), self._outputs))


def select(result: Any, names: Sequence[str]) -> list[torch.Tensor]:  # noqa: ANN401 - what modules return
    """Return the declared outputs from what a module returned: by name if it has names, otherwise by position.

    Raises
    ------
    ModelBuildError
        If one is missing, or is not a tensor.
    """
    declared = ", ".join(names)
    fields: dict[str, Any] | None = None
    if isinstance(result, dict):
        fields = result
    elif is_dataclass(result) or hasattr(result, "_fields"):
        known = getattr(result, "_fields", None) or result.__dataclass_fields__
        fields = {name: getattr(result, name) for name in known}
    if fields is not None and (all(name in fields for name in names) or isinstance(result, dict)):
        if not all(name in fields for name in names):
            returned = ", ".join(str(name) for name in fields)
            raise ModelBuildError(
                f"the module must return ({declared}), as declared, got a {type(result).__name__} of ({returned}); "
                "name the outputs as it does"
            )
        tensors = pytree.tree_leaves([fields[name] for name in names])
    else:
        tensors = pytree.tree_leaves(result)
    kinds = ", ".join(type(t).__name__ for t in tensors)
    if len(tensors) != len(names) or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise ModelBuildError(f"the module must return ({declared}), as declared, got ({kinds})")
    return tensors


def blame(error: BaseException, folder: Path) -> str:
    """Return `` (file.py line 3: `code`)`` for the user's line that an error came from, or nothing.

    That is the last line in the recipe's folder; otherwise the last one outside of torch and of this package.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name} line {error.lineno}: `{(error.text or '').strip()}`)"
    own = [f for f in frames if Path(f.filename).is_relative_to(folder)]
    other = [f for f in frames if not f.filename.startswith((*_OURS, "<"))]
    if not (found := own or other):
        return ""
    frame = found[-1]
    code = f": `{frame.line}`" if frame.line else ""
    return f" ({Path(frame.filename).name} line {frame.lineno}{code})"


def check_tensors(tensors: Mapping[str, Any], subject: str, fix: str) -> None:
    """Refuse weights that cannot be deployed: more than fit, or of a kind that the functions cannot compute.

    Parameters
    ----------
    tensors
        A state dict.
    subject
        The owner of the shapes, for messages.
    fix
        How to make floats of them.
    """
    known = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    # Tied weights count once, as in the graph.
    check_size(
        sum({t.untyped_storage().data_ptr(): t.nbytes for t in known.values() if _is_plain(t)}.values()), subject
    )
    for name, tensor in known.items():
        if not _is_plain(tensor):
            raise ModelBuildError(
                f"{subject} must be float, got '{name}', which torch has quantized; give float weights, which the "
                "build quantizes for the functions' CPUs"
            )
        if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelBuildError(
                f"{subject} must be of a type that ONNX Runtime computes on CPUs, got {kind} for '{name}'; {fix}"
            )


def _demand(declared: str, size: str, same: Sequence[str]) -> str:
    """Say what a module demands of a symbolic size, and what to declare instead."""
    if len(same) > 1:
        return f"it demands that {' and '.join(same)} are equal; declare one name for both, or fixed sizes"
    if multiple := _MULTIPLE.fullmatch(size):
        return f"{declared} must be a multiple of {multiple[1]}; declare a fixed size"
    return f"{declared} must be {size}; declare a fixed size"


def _is_plain(tensor: torch.Tensor) -> bool:
    return not tensor.is_quantized and type(tensor).__module__.partition(".")[0] == "torch"


def _is_sum(declared: str, sizes: Mapping[str, str]) -> bool:
    """Tell whether a size was traced as the sum that it is declared to be."""
    parts = declared.split(PLUS)
    return len(parts) > 1 and sorted(sizes[declared].split(PLUS)) == sorted(sizes.get(part, "") for part in parts)


def _example(batch: Batch, inputs: Sequence[TensorSpec]) -> tuple[torch.Tensor, ...]:
    """Return an example whose symbolic sizes are more than one: tracing takes ones for constants."""
    sizes = [(d, n) for s in inputs for d, n in zip(s.shape, batch[s.name].shape, strict=True) if isinstance(d, str)]
    widened = {symbol for symbol, size in sizes if size == 1}
    tensors = []
    for spec in inputs:
        array = batch[spec.name]
        for axis, symbol in enumerate(spec.shape):
            if symbol in widened:
                array = np.concatenate([array] * 2, axis)
        tensors.append(torch.from_numpy(np.array(array)))
    return tuple(tensors)


def _put_aside(initializers: Iterable[ir.Value], spool: aside.Spool) -> None:
    """Write large weights to a file, one after the other, and let the graph refer to them there."""
    for value in initializers:
        tensor = value.const_value
        if tensor is None or tensor.nbytes < weights.LEAST_BYTES:
            continue
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data  # not a copy unless it is turned
        file, offset, length = aside.place(spool.add(TensorProto(), data))
        value.const_value = ir.ExternalTensor(
            file,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or value.name or "",
        )


def _forget_weights() -> None:
    """Let no value of a graph of the exporter have large weights, so that they can go with the module.

    The rules by which it rewrites graphs refer to the last graph until the process ends, and no other way leads there.
    """
    for found in gc.get_objects():
        tensor = found.const_value if issubclass(type(found), ir.Value) else None
        if isinstance(tensor, ir.Tensor) and tensor.nbytes >= weights.LEAST_BYTES:
            found.const_value = None


def _to_numpy(tensor: torch.Tensor, subject: str) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = tensor.detach().cpu().resolve_conj().numpy()
    except TypeError as error:
        raise ModelBuildError(
            f"{subject}: the module must return a type that numpy has, got {tensor.dtype}; cast it"
        ) from error
    return array
