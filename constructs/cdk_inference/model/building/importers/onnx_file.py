"""Loads an ONNX file: one self-contained graph with the declared tensors, whatever exported it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, version_converter

from cdk_inference.common.store import PARTIAL
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.session import AS_WRITTEN, open_session
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import BATCH_WIDE, all_nodes
from cdk_inference.model.building.importers.archive import describe_file, shorten
from cdk_inference.model.building.importers.converted import OPSET, mend
from cdk_inference.model.building.importers.tensors import check_batch, check_outputs, declare, spell
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.tensors import STRING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.tensors import Declared, TensorSpec

_OLDEST = 7  # the first that onnxruntime vouches for
_IR_VERSION = 8  # of opset 17; from 4 on, weights need not be inputs
_MAX_LOCATION = 500  # characters
_SHOWN = 8  # tensors in a message
_TOLERANCE = 1e-3  # of the largest value: batched kernels may sum in another order
_SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = (
    re.compile(r"/\S+\.(?:cc|h):\d+ (?:\S+::)?\w+\([^()]*\)(?: const)? "),  # with the function's parameters
    re.compile(r"/\S+\.(?:cc|h):\d+ \S+ "),
)
_MISSING_OPERATOR = (
    re.compile(r"No Op registered for (?P<op>\S+) with domain_version of (?P<version>\d+)"),
    re.compile(r"NOT_IMPLEMENTED *: Could not find an implementation for (?P<op>\w+)\((?P<version>\d+)\)"),
    re.compile(r"(?P<op>[\w.]+:\w+)\((?P<version>-?\d+)\) is not a registered function/op"),
)


def load_onnx(recipe: Declared, path: Path, external: Iterable[Path], scratch: Path) -> OnnxModel:
    """Return the model in an ONNX file.

    Parameters
    ----------
    external
        Files that hold its weights, found by their names; others must lie next to the file.
    scratch
        A folder that a large graph gets a folder in. It is on a disk: that for temporary files may be in memory.

    Raises
    ------
    ModelBuildError
        If the file is damaged, refers to files that it must not, or holds another model than the recipe declares.
    """
    subject = f"ONNX file {path.name}"
    model = _read(path, subject)
    try:
        _find_weights(model, path.parent, {file.name: file for file in external}, subject)
        _check_opset(model, subject)
        mend(model, subject)
        single = _check_tensors(model, recipe, subject)
    except (TypeError, AttributeError) as error:  # texts that are not UTF-8 come as bytes
        raise ModelBuildError(f"{subject} must contain only strings of valid UTF-8; export it again") from error
    return OnnxModel(recipe, model, subject, scratch, single=single)


class OnnxModel:
    """An ONNX graph.

    Parameters
    ----------
    recipe
        Declares inputs and outputs by the names that they have in the graph.
    model
        The graph.
    subject
        Names the model in messages.
    scratch
        A folder for the folder of a large graph.
    single
        Whether the graph is made for one sample while the recipe declares a symbolic batch.
    """

    def __init__(self, recipe: Declared, model: onnx.ModelProto, subject: str, scratch: Path, *, single: bool) -> None:
        self._recipe = recipe
        self._model = model
        self._subject = subject
        self._single = single
        # A large graph is opened from files, next to links of its weights.
        self._opened = None
        if aside.is_aside(model):
            scratch.mkdir(parents=True, exist_ok=True)
            self._opened = TemporaryDirectory(prefix=PARTIAL, dir=scratch)
        self._session = self._start(model)
        self.batch_wide = any(node.op_type in BATCH_WIDE for node in all_nodes(model))

    def run(self, batch: Batch) -> list[np.ndarray[Any, Any]]:
        """Return the outputs of the graph as it is, computed without optimizations."""
        sizes = check_batch(batch, self._recipe.inputs, f"an example for {self._subject}")
        try:
            arrays = self._run(self._session, batch)
        except ModelBuildError:
            # Many a graph names its batch, and has it fixed to one sample inside.
            if self._single or not self._takes_single(batch):
                raise
            self._single = True
            arrays = self._run(self._session, batch)
        check_outputs(arrays, self._recipe.outputs, sizes, f"{self._subject}: the graph")
        return arrays

    def export(self, batch: Batch, work: Path | None = None) -> onnx.ModelProto:
        """Return the graph with the declared inputs, outputs and sizes, in an operator set of today."""
        check_batch(batch, self._recipe.inputs, f"an example for {self._subject}")
        model = self._batched(batch) if self._single else _narrow(self._model, self._recipe)
        converted = self._converted(model, batch)
        if work is not None:  # weights may stay where they are
            return converted
        return aside.included(converted, self._subject, "use a smaller model, or split it into two")

    def _start(self, model: onnx.ModelProto) -> ort.InferenceSession:
        if self._opened is None:
            return _open(_serialize(model, self._subject), self._subject)
        return _open(aside.link(model, Path(self._opened.name)), self._subject)

    def _takes_single(self, batch: Batch) -> bool:
        symbolic = all(isinstance(s.shape[0], str) for s in (*self._recipe.inputs, *self._recipe.outputs))
        if not symbolic or len(batch[self._recipe.inputs[0].name]) == 1:
            return False
        try:
            self._run(self._session, {k: v[:1] for k, v in batch.items()})
        except ModelBuildError:
            return False
        return True

    def _run(
        self, session: ort.InferenceSession, batch: Batch, *, single: bool | None = None
    ) -> list[np.ndarray[Any, Any]]:
        names = [spec.name for spec in self._recipe.outputs]
        single = self._single if single is None else single
        try:
            if not single:
                return [_array(a, n, self._subject) for a, n in zip(session.run(names, batch), names, strict=True)]
            count = len(batch[self._recipe.inputs[0].name])
            parts = [session.run(names, {k: v[i : i + 1] for k, v in batch.items()}) for i in range(count)]
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        except ModelBuildError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{s.name} {list(batch[s.name].shape)}" for s in self._recipe.inputs)
            raise ModelBuildError(f"{self._subject} cannot run on ({shapes}): {_reason(error)}") from error

    def _converted(self, model: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
        """Convert to a newer operator set; if that is not possible or not right, keep what runs."""
        if _opset(model) >= OPSET or aside.is_aside(model):  # the converter would lose where weights lie
            return model
        try:
            converted = version_converter.convert_version(model, OPSET)
            converted.ir_version = max(converted.ir_version, _IR_VERSION)
            for opset in model.opset_import:  # those that the converter does not know
                if opset.domain and opset.domain not in {o.domain for o in converted.opset_import}:
                    converted.opset_import.append(opset)
            declare(converted, self._recipe)
            before = self._run(self._start(model), batch, single=False)
            after = self._run(self._start(converted), batch, single=False)
        except Exception:  # the converter lacks many operators, and its errors have no type
            return model
        return converted if _close(before, after) else model

    def _batched(self, batch: Batch) -> onnx.ModelProto:
        """Free the batch of a graph for one sample, if a batch then gives what its samples give one by one."""
        # Two different samples.
        pair = {k: np.concatenate([v, v[:1, ..., ::-1] if v.ndim > 1 else v[:1]])[:2] for k, v in batch.items()}
        expected = self._run(self._session, pair)
        for reshapes in (False, True):
            model = _narrow(self._model, self._recipe)
            del model.graph.value_info[:]
            if reshapes:
                _free_reshapes(model)
            try:
                session = self._start(model)
                found = self._run(session, pair, single=False)
            except ModelBuildError:
                continue
            if _close(expected, found):
                return model
        fixed = ", ".join(
            spell(s.name, s.dtype, (1, *s.shape[1:])) for s in (*self._recipe.inputs, *self._recipe.outputs)
        )
        raise ModelBuildError(
            f"{self._subject} must compute each sample of a batch as it does alone, got a graph for one sample; "
            f"declare {fixed}, or export it again with a dynamic batch"
        )


def _read(path: Path, subject: str) -> onnx.ModelProto:
    kind = describe_file(path)
    if kind != "a file of an unknown format":
        raise ModelBuildError(f"{subject} must be an ONNX graph, got {kind}")
    if (size := path.stat().st_size) >= weights.MESSAGE:
        raise ModelBuildError(
            f"{subject} must be below 2 GB, got {size / 1e9:.1f} GB; save its weights as external data, which may be "
            "larger"
        )
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's
        raise ModelBuildError(
            f"{subject} must be an ONNX graph, got a damaged, maybe truncated one: {shorten(error)}"
        ) from error
    if not model.ir_version or not model.graph.output or not model.opset_import:
        raise ModelBuildError(f"{subject} must be an ONNX graph, got a damaged, maybe truncated one: it has no graph")
    return model


def _check_opset(model: onnx.ModelProto, subject: str) -> None:
    if (version := _opset(model)) < _OLDEST and any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        raise ModelBuildError(f"{subject} must have operator set {_OLDEST} or later, got {version}; export it again")


def _opset(model: onnx.ModelProto) -> int:
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(versions, default=OPSET))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a graph, also those in nested graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(graph)


def _find_weights(model: onnx.ModelProto, folder: Path, given: dict[str, Path], subject: str) -> None:
    """Read the weights that lie in other files, and only there where the recipe's author put them.

    If they are large together, the graph names where they lie instead.
    """
    tensors = [*_tensors(model.graph), *(t for f in model.functions for t in _tensors_of_nodes(f.node))]
    total = 0
    pieces = []
    for place, tensor in enumerate(tensors):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        file = _external_file(where.get("location", ""), folder, given, subject)
        offset, length = _extent(where, file, tensor.name, subject)
        total += length
        pieces.append((place, tensor, file, offset, length))
    files = {piece[2]: piece[2].stat().st_size for piece in pieces}
    if total > max(weights.LARGE, sum(files.values())):
        raise ModelBuildError(
            f"{subject} must have weights of {sum(files.values()) / 1e9:.1f} GB, the size of their files, got "
            f"{total / 1e9:.1f} GB, which refer to the same bytes; export it again"
        )
    outer = len(model.graph.initializer) if total > weights.LARGE else 0  # they come first
    inner = 0
    for place, tensor, file, offset, length in pieces:
        if place < outer:
            aside.refer(tensor, str(file.absolute()), offset, length)
            continue
        inner += length
        if inner >= weights.MESSAGE:
            raise ModelBuildError(
                f"{subject} must have weights below 2 GB in nodes and in nested graphs; export it with initializers"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _external_file(location: str, folder: Path, given: dict[str, Path], subject: str) -> Path:
    parts = PurePosixPath(location)
    if not location.isprintable() or len(location) > _MAX_LOCATION:
        raise ModelBuildError(
            f"{subject} must name the files of its weights in printable characters, got {location!r:.80}"
        )
    if not location or parts.is_absolute() or ".." in parts.parts or "\\" in location or "\0" in location:
        raise ModelBuildError(f"{subject} must have its weights in its folder, got '{location}'")
    if (file := given.get(parts.name)) is not None:
        return file
    file = folder / location
    if not file.resolve().is_relative_to(folder.resolve()) or file.is_symlink():
        raise ModelBuildError(
            f"{subject} must have its weights in its folder, got the link '{location}'; copy the file there"
        )
    if not file.is_file():
        raise ModelBuildError(
            f"{subject} needs its weights in '{location}' next to it, got no such file; put it there, or name it in "
            "external_data"
        )
    if (kind := describe_file(file)).startswith(("a git-lfs", "an HTML")):
        raise ModelBuildError(f"{subject} needs its weights in '{location}', got {kind}")
    return file


def _extent(where: dict[str, str], file: Path, name: str, subject: str) -> tuple[int, int]:
    size = file.stat().st_size
    try:
        offset = int(where.get("offset") or 0)
        length = int(where.get("length") or size - offset)
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelBuildError(
            f"{subject}: the weights {name!r:.80} must lie within the {size} bytes of {file.name}, got offset "
            f"{where.get('offset', 0)} and length {where.get('length', 'all')}; the file is truncated, or of another "
            "model"
        )
    return offset, length


def _check_tensors(model: onnx.ModelProto, recipe: Declared, subject: str) -> bool:
    """Compare the graph's inputs and outputs with the declared ones.

    Returns
    -------
    Whether all inputs are for one sample, where the recipe declares a symbolic batch.
    """
    weights = {w.name for w in model.graph.initializer} | {w.values.name for w in model.graph.sparse_initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in weights}
    outputs = {v.name: v for v in model.graph.output}
    for spec in recipe.outputs:
        if spec.name in outputs:
            _check_kind(outputs[spec.name], subject)
    batches: set[bool] = set()
    for value in inputs.values():
        _check_input(value, subject)
    fits = set(inputs) == {s.name for s in recipe.inputs} and all(s.name in outputs for s in recipe.outputs)
    for spec in recipe.inputs if fits else ():
        fits = fits and _fits(inputs[spec.name], spec, batches)
    fits = fits and len(batches) <= 1
    if fits and not all(_fits(outputs[s.name], s, None) for s in recipe.outputs):
        # Converters write wrong sizes of outputs, such as 1 for trees of several numbers. Runs check those too.
        inferred = _inferred_outputs(model)
        fits = all(_fits(inferred[s.name], s, None) for s in recipe.outputs)
    if not fits:
        actual, declared = (
            f"inputs=({_list(i)},), outputs=({_list(o)},)"
            for i, o in (
                ([_spell(v) for v in inputs.values()], [_spell(v) for v in outputs.values()]),
                ([spell(s.name, s.dtype, s.shape) for s in specs] for specs in (recipe.inputs, recipe.outputs)),
            )
        )
        raise ModelBuildError(f"{subject} must have {declared}, as the recipe declares, got {actual}")
    return batches == {True}


def _inferred_outputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the outputs of a graph with the shapes that follow from its nodes, and none where none follows."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        copy = onnx.shape_inference.infer_shapes(copy)
    except Exception:  # it has no type for what it cannot infer, or for a graph that is too large
        return {value.name: value for value in model.graph.output}
    return {value.name: value for value in copy.graph.output}


def _check_kind(value: onnx.ValueInfoProto, subject: str) -> None:
    kind = value.type.WhichOneof("value")
    text = kind == "tensor_type" and value.type.tensor_type.elem_type == TensorProto.STRING
    if kind == "tensor_type" and not text:
        return
    found = "text" if text else f"a {(kind or 'nothing').removesuffix('_type')}"
    raise ModelBuildError(
        f"{subject}: its output '{value.name}' must be a tensor of numbers, got {found}; export it as a tensor, or "
        "declare the other outputs alone"
    )


def _check_input(value: onnx.ValueInfoProto, subject: str) -> None:
    kind = value.type.WhichOneof("value")
    if kind in (None, "tensor_type"):
        return  # what has no type is not what is declared
    raise ModelBuildError(
        f"{subject}: its input {value.name!r:.80} must be a tensor, got a {kind.removesuffix('_type')}; export the "
        "part of the model that takes tensors, and let a preprocessing stage make them"
    )


def _fits(value: onnx.ValueInfoProto, spec: TensorSpec, batches: set[bool] | None) -> bool:
    """Tell whether a graph's tensor can be what a spec declares; collect whether its batch is fixed to one sample."""
    tensor = value.type.tensor_type
    if _dtype(tensor.elem_type) != spec.dtype:
        return False
    if not tensor.HasField("shape"):
        return True
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    if len(dims) != len(spec.shape):
        return False
    for axis, (found, size) in enumerate(zip(dims, spec.shape, strict=True)):
        if isinstance(size, int):
            if found not in (None, size):
                return False
        elif batches is not None and found is not None and (axis > 0 or found != 1):
            return False
    if batches is not None and isinstance(spec.shape[0], str):
        batches.add(dims[0] is not None)
    return True


def _dtype(kind: int) -> str:
    if kind == TensorProto.STRING:
        return STRING
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, ValueError):
        return "unknown"


def _spell(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    shape: list[str | int] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(dim.dim_value)
        else:
            named = _SYMBOL.fullmatch(dim.dim_param)
            shape.append(dim.dim_param if named else "batch" if axis == 0 else f"size_{axis}")
    return spell(value.name, _dtype(tensor.elem_type), shape)


def _list(specs: Sequence[str]) -> str:
    more = f" and {len(specs) - _SHOWN} more" if len(specs) > _SHOWN else ""
    return ", ".join(specs[:_SHOWN]) + more


def _narrow(model: onnx.ModelProto, recipe: Declared) -> onnx.ModelProto:
    """Return a copy that has the declared inputs and outputs alone, with the declared sizes; weights are constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.training_info[:]
    del copy.graph.value_info[:]
    declare(copy, recipe)
    copy.ir_version = max(copy.ir_version, _IR_VERSION)
    return copy


def _free_reshapes(model: onnx.ModelProto) -> None:
    """Let reshapes to a constant shape for one sample take their number of samples from their input."""
    constants = {w.name: w for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        shape = onnx.numpy_helper.to_array(weight).copy()
        if shape.ndim == 1 and shape.size and shape[0] == 1:
            shape[0] = 0 if -1 in shape else -1
            weight.CopyFrom(onnx.numpy_helper.from_array(shape, weight.name))


def _serialize(model: onnx.ModelProto, subject: str) -> bytes:
    try:
        data: bytes = model.SerializeToString()
    except Exception as error:  # protobuf's
        raise ModelBuildError(
            f"{subject} must be below 2 GB with its weights; use a smaller model, or split it into two"
        ) from error
    return data


def _open(model: Model, subject: str) -> ort.InferenceSession:
    """Open a session that computes each node as it is written, or as nearly as onnxruntime can."""
    for level in (AS_WRITTEN, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC):
        try:
            return open_session(model, level=level)
        except Exception as error:  # onnxruntime's errors have no common base class
            failure = error
    for pattern in _MISSING_OPERATOR:
        if found := pattern.search(str(failure)):
            version = f" (version {found['version']})" if not found["version"].startswith("-") else ""
            raise ModelBuildError(
                f"{subject} cannot use the operator {found['op']}{version}, which onnxruntime {ort.__version__} lacks; "
                "export it without"
            ) from failure
    raise ModelBuildError(f"onnxruntime {ort.__version__} cannot load {subject}: {_reason(failure)}") from failure


def _reason(error: BaseException) -> str:
    """Return the message without the code, and without the place in onnxruntime's sources."""
    text = _CODE.sub("", str(error))
    for pattern in _PLACE:
        text = pattern.sub("", text)
    return shorten(text)


def _array(value: object, name: str, subject: str) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray):
        raise ModelBuildError(f"{subject}: its output '{name}' must be a tensor, got {type(value).__name__}")
    return value


def _close(expected: list[np.ndarray[Any, Any]], found: list[np.ndarray[Any, Any]]) -> bool:
    """Tell whether outputs are the same up to rounding."""
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        scale = float(np.abs(wide_a[np.isfinite(wide_a)]).max(initial=0.0))
        if not np.allclose(wide_a, wide_b, rtol=0, atol=_TOLERANCE * max(scale, 1e-6), equal_nan=True):
            return False
    return True
