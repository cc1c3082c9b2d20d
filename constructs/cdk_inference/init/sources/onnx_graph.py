"""Inspects an ONNX file."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from cdk_inference.init.errors import InitError
from cdk_inference.init.model import TOKENIZER, InspectedModel
from cdk_inference.init.sources.tensors import BATCH, Declared, recipe_tensors
from cdk_inference.model.recipe.checks import is_inside

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PROBABILITIES = frozenset(("Softmax", "Sigmoid", "TreeEnsembleClassifier", "Normalizer"))
_SAME = frozenset(("Cast", "Identity", "Reshape", "Flatten", "ZipMap"))
_MOST_STEPS = 8  # back from an output to the operator that made its numbers
# A hostile file could name conftest.py as its weights. These are names of exporters, which no tool runs.
_WEIGHTS = re.compile(
    r"([\w-][^/\\]*/)*(onnx__\w+|[\w-][^/\\]*\.(data|bin|raw|weights?|bias|onnx_data(_\d+)?))", re.IGNORECASE
)
_NO_WEIGHTS = "export it with its weights"


def inspect_onnx(path: Path, *, origin: str | None = None) -> InspectedModel:
    """Return what an ONNX file says of its model.

    Weights next to it, and a ``tokenizer.json``, belong to it.

    Parameters
    ----------
    origin
        A sentence that says where it comes from. Default: the name of the file.

    Raises
    ------
    InitError
        It is damaged, its weights are missing or in files of other names than weights have, or no recipe can declare
        its tensors.
    """
    subject = f"ONNX file {path.name}"
    model = _read(path, subject)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    # Before IR version 4, weights are inputs too.
    weights = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    inputs, outputs, notes = recipe_tensors(
        [_declared(value) for value in graph.input if value.name not in weights],
        [_returned(value, made_by.get(value.name)) for value in graph.output],
        subject,
        frees_batch=True,
    )
    files: dict[str, Path | str] = {path.name: path}
    for location in _external(model):
        stored = path.parent / location
        name = str(PurePosixPath(location))
        if is_inside(location) and not (name.isprintable() and _WEIGHTS.fullmatch(name)):
            raise InitError(
                f"{subject} must have its weights in files such as {path.name}.data, got {location!r:.80}; "
                f'save it with onnx.save_model(..., save_as_external_data=True, location="{path.name}.data")'
            )
        if not is_inside(location) or not stored.is_file():
            raise InitError(f"{subject} must have its weights next to it, got no file {location!r:.80}; {_NO_WEIGHTS}")
        files[name] = stored
    if (tokenizer := path.with_name(TOKENIZER)).is_file():
        files[TOKENIZER] = tokenizer
    said = {each.key: each.value for each in model.metadata_props}
    missing = _names(said, "missing")
    inputs = tuple(replace(each, nan=each.name in missing and each.dtype.startswith("float")) for each in inputs)
    maps = [node for node in graph.node if node.op_type == "ZipMap"]
    return InspectedModel(
        source=f"OnnxFile({json.dumps(path.name, ensure_ascii=False)})",
        imports=("OnnxFile",),
        inputs=inputs,
        outputs=outputs,
        origin=origin or f"the file {path.name}",
        files=files,
        labels=_names(said, "classes", "names", "labels") or (_classes(maps[0]) if len(maps) == 1 else ()),
        fields=_names(said, "features"),
        probabilities=said.get("probabilities") == "true" or any(_is_probability(o.name, made_by) for o in outputs),
        distances=any(_maker(value.name, made_by) == "ArgMin" for value in graph.output),
        notes=notes,
    )


def _read(path: Path, subject: str) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's
        raise InitError(f"{subject} cannot be read: {str(error).splitlines()[0]}; export it again") from error
    if not model.ir_version or not model.graph.output:
        raise InitError(f"{subject} must be an ONNX graph, got a file without outputs; export it again")
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # an operator that it does not know; the graph's own declarations remain
        return model


def _declared(value: onnx.ValueInfoProto) -> Declared:
    kind = value.type.WhichOneof("value") or "a value of no type"
    if kind != "tensor_type":
        return Declared(value.name, f"a {kind.removesuffix('_type')}", None)
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        dtype = "string"
    else:
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        except KeyError:
            dtype = "of an unknown type"
    if not tensor.HasField("shape"):
        return Declared(value.name, dtype, None)
    sizes = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or None
        for dim in tensor.shape.dim
    ]
    return Declared(value.name, dtype, tuple(sizes))


def _returned(value: onnx.ValueInfoProto, node: onnx.NodeProto | None) -> Declared:
    """Return an output as the build takes it, which knows what converters of classic models write."""
    if node is not None and node.op_type == "ZipMap" and (names := _classes(node)):
        return Declared(value.name, "float32", (BATCH, len(names)))
    found = _declared(value)
    if node is not None and node.op_type == "TreeEnsembleRegressor" and len(found.shape or ()) == 1:
        # CatBoost declares one axis, and returns two.
        targets = next((each.i for each in node.attribute if each.name == "n_targets"), 1)
        return Declared(value.name, found.dtype, (*(found.shape or ()), targets))
    return found


def _classes(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the names of classes that an operator has, or their numbers."""
    named = [each for each in node.attribute if each.name.startswith("classlabels")]
    strings = [name.decode(errors="replace") for each in named for name in each.strings]
    return _as_names(strings or [f"class {number}" for each in named for number in each.ints])


def _external(model: onnx.ModelProto) -> Iterable[str]:
    """Return the files that hold the graph's weights, each once."""
    outside = [each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL]
    return dict.fromkeys(entry.value for each in outside for entry in each.external_data if entry.key == "location")


def _names(said: dict[str, str], *keys: str) -> tuple[str, ...]:
    """Return a list of names that an exporter put into the metadata, as JSON or as Python prints it."""
    for key in keys:
        if key not in said:
            continue
        for parse in (json.loads, ast.literal_eval):
            try:
                return _as_names(parse(said[key]))
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    return ()


def _as_names(found: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever an exporter wrote
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found, key=int)]
    if not isinstance(found, list):
        raise TypeError("not a list of names")
    return tuple(" ".join(str(name).split()) or "-" for name in found)


def _is_probability(name: str, made_by: dict[str, onnx.NodeProto]) -> bool:
    """Tell whether the numbers of an output are probabilities, by the operator that made them."""
    return _maker(name, made_by) in _PROBABILITIES


def _maker(name: str, made_by: dict[str, onnx.NodeProto]) -> str:
    """Return the operator that made the numbers of an output; empty for one that is an input, or too far away."""
    for _ in range(_MOST_STEPS):
        node = made_by.get(name)
        if node is None or node.op_type not in _SAME:
            return "" if node is None else node.op_type
        name = node.input[0]
    return ""
