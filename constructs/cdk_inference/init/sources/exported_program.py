"""Inspects a program of ``torch.export.save``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from cdk_inference.errors import ModelBuildError
from cdk_inference.init.errors import InitError
from cdk_inference.init.model import TOKENIZER, InspectedModel
from cdk_inference.init.sources.tensors import Declared, recipe_tensors
from cdk_inference.model.building.importers.archive import check_archive, describe_file
from cdk_inference.model.building.importers.torch_program import check_program

if TYPE_CHECKING:
    from pathlib import Path


def inspect_program(path: Path) -> InspectedModel:
    """Return what a ``.pt2`` file says of its model. Whatever could run code when it is loaded is refused first.

    Raises
    ------
    InitError
        It is damaged or refused, or no recipe can declare its tensors.
    """
    subject = f"program {path.name}"
    program = _load(path, subject)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [str(name) for name in program.graph_signature.user_inputs]
    returned = [str(name) for name in program.graph_signature.user_outputs]
    sequence = given[0] == "input_ids"
    names = ["output"] if len(returned) == 1 else [f"output_{index}" for index in range(len(returned))]
    inputs, outputs, notes = recipe_tensors(
        [_declared(name, values.get(name), sequence=sequence) for name in given],
        [_declared(name, values.get(node), sequence=sequence) for name, node in zip(names, returned, strict=True)],
        subject,
        frees_batch=False,
    )
    if notes:
        raise InitError(f"{subject} must have outputs of numbers, batch first; {'; '.join(notes)}; export it without")
    files: dict[str, Path | str] = {path.name: path}
    if (tokenizer := path.with_name(TOKENIZER)).is_file():
        files[TOKENIZER] = tokenizer
    return InspectedModel(
        source=f"TorchProgram({json.dumps(path.name, ensure_ascii=False)})",
        imports=("TorchProgram",),
        inputs=inputs,
        outputs=outputs,
        origin=f"the file {path.name}",
        files=files,
    )


def _load(path: Path, subject: str) -> torch.export.ExportedProgram:
    if (kind := describe_file(path)) != "zip":
        raise InitError(f"{subject} must be a .pt2 file of torch.export.save, got {kind}")
    try:
        check_archive(path)
        check_program(path)
        return torch.export.load(path)
    except ModelBuildError as error:
        raise InitError(str(error)) from error
    except Exception as error:
        raise InitError(
            f"{subject} cannot be read by torch {torch.__version__.partition('+')[0]}; save it again with this version"
        ) from error


def _declared(name: str, value: Any, *, sequence: bool) -> Declared:  # noqa: ANN401 - torch's fake tensors
    if not isinstance(value, torch.Tensor):
        return Declared(name, type(value).__name__, None)
    # A size that torch made symbolic has a name such as "s77", which says nothing to a reader.
    words = {1: "sequence"} if sequence else {}
    sizes = [
        words.get(axis, f"{name}_{axis}") if isinstance(size, torch.SymInt) else int(size)
        for axis, size in enumerate(value.shape)
    ]
    return Declared(name, str(value.dtype).removeprefix("torch."), tuple(sizes))
