"""Compares tensors with what a recipe declares, and writes down what they are in the recipe's words."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import check_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnx

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.recipe.tensors import Declared, TensorSpec

_CONTAINER = Path("/sys/fs/cgroup/memory.max")
_MAX_NAME = 200  # characters in a message


def spell(name: str, dtype: str, shape: Sequence[str | int]) -> str:
    """Return the line of a recipe that declares a tensor."""
    sizes = ", ".join(f'"{size}"' if isinstance(size, str) else str(size) for size in shape)
    comma = "," if len(shape) == 1 else ""
    quoted = f'"{name}"' if name.isprintable() and '"' not in name else json.dumps(name)
    return f'TensorSpec({quoted[:_MAX_NAME]}, "{dtype}", ({sizes}{comma}))'


def check_size(size: int, subject: str) -> None:
    """Refuse weights that this machine cannot hold, before anything is made from them.

    Parameters
    ----------
    size
        Bytes.
    subject
        The owner of the tensors, for messages.

    Raises
    ------
    ModelBuildError
        If they are more than the memory.
    """
    if size >= (limit := memory()):
        raise ModelBuildError(
            f"{subject} must fit into the {limit / 1e9:.1f} GB of memory that the build has, got {size / 1e9:.1f} GB; "
            "build on a machine with more memory, or use a smaller model"
        )


def memory() -> int:
    """Return the bytes of memory that this process can have: those of the machine, or of its container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit
        found.append(int(_CONTAINER.read_text("utf-8")))
    return min(found)


def check_batch(batch: Batch, inputs: Sequence[TensorSpec], where: str) -> dict[str, int]:
    """Return the symbolic sizes of a batch, after checking names, types and shapes."""
    sizes: dict[str, int] = {}
    if set(batch) != {spec.name for spec in inputs}:
        raise ModelBuildError(f"{where} must have {sorted(s.name for s in inputs)}, got {sorted(batch)}")
    for spec in inputs:
        check_array(batch[spec.name], spec, where, sizes)
    return sizes


def check_outputs(
    arrays: Sequence[np.ndarray[Any, Any]], outputs: Sequence[TensorSpec], sizes: Mapping[str, int], where: str
) -> None:
    """Check what a model returned against the declared outputs.

    Parameters
    ----------
    sizes
        The symbolic sizes of the inputs that it was computed from.

    Raises
    ------
    ModelBuildError
        With the lines that would declare what was returned.
    """
    sizes = dict(sizes)
    symbols = {size: symbol for symbol, size in reversed(sizes.items())}
    wrong = False
    for array, spec in zip(arrays, outputs, strict=True):
        try:
            check_array(array, spec, where, sizes)
        except ModelBuildError:
            wrong = True
    if wrong:
        # The first axis is the batch's; others that have its size by chance keep their numbers.
        actual = [
            spell(s.name, str(a.dtype), [symbols.get(n, n) if i == 0 else n for i, n in enumerate(a.shape)])
            for a, s in zip(arrays, outputs, strict=True)
        ]
        declared = [spell(s.name, s.dtype, s.shape) for s in outputs]
        raise ModelBuildError(
            f"{where} must return {', '.join(declared)}, as the recipe declares, got {', '.join(actual)}"
        )


def declare(model: onnx.ModelProto, recipe: Declared) -> None:
    """Give a graph's inputs and outputs the sizes that the recipe declares, and their order."""
    for values, specs in ((model.graph.input, recipe.inputs), (model.graph.output, recipe.outputs)):
        known = {value.name: value for value in values}
        ordered = [type(known[spec.name]).FromString(known[spec.name].SerializeToString()) for spec in specs]
        for value, spec in zip(ordered, specs, strict=True):
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in spec.shape:
                if isinstance(size, str):
                    shape.dim.add().dim_param = size
                else:
                    shape.dim.add().dim_value = size
        del values[:]
        values.extend(ordered)


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph, and of the graphs in it, other names; those that have these names already yield.

    Parameters
    ----------
    names
        New names by present ones.
    """
    changes = {new: f"{new}__" for new in names.values()} | dict(names)
    pending = [graph]
    while pending:
        current = pending.pop()
        for value in (*current.input, *current.output, *current.value_info, *current.initializer):
            value.name = changes.get(value.name, value.name)
        for node in current.node:
            node.input[:] = [changes.get(name, name) for name in node.input]
            node.output[:] = [changes.get(name, name) for name in node.output]
            for attribute in node.attribute:
                pending.extend((*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())))
