"""The files of a deployed model: the graph, and next to it the large weights, which ONNX Runtime maps into memory.

``model.onnx`` names each tensor of ``model.weights`` by offset and length, as ONNX's "external data". The two must lie
in one folder, and the model must be opened by its path. `join` makes one file of them again, for whatever takes no
other.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

MODEL = "model.onnx"
WEIGHTS = "model.weights"

LEAST_BYTES = 16 * 1024
"""Smaller weights stay in the graph: ONNX Runtime checks the path of each tensor that lies elsewhere, which costs more
than to copy 16 KiB."""

ALIGNMENT = 4096
"""Each weight begins on a new page, so that a page is read when, and only if, its weight is used."""


def split(model: bytes) -> tuple[bytes, bytes]:
    """Put the large weights of a self-contained model aside. The same model gives the same bytes.

    Returns
    -------
    tuple[bytes, bytes]
        What goes to ``model.onnx``, and what goes to ``model.weights``, which is empty if all weights are small.
    """
    import onnx  # noqa: PLC0415 - an app that only deploys needs it not
    from onnx.external_data_helper import set_external_data  # noqa: PLC0415

    graph = onnx.load_model_from_string(model)
    weights = bytearray()
    for tensor in graph.graph.initializer:
        data = tensor.raw_data
        if len(data) < LEAST_BYTES:
            continue
        weights.extend(b"\0" * (-len(weights) % ALIGNMENT))
        set_external_data(tensor, WEIGHTS, offset=len(weights), length=len(data))
        tensor.ClearField("raw_data")
        weights.extend(data)
    return (graph.SerializeToString(deterministic=True) if weights else model), bytes(weights)


def join(path: Path) -> bytes:
    """Return a model as one self-contained file, which runs anywhere, wherever its weights lie now.

    Parameters
    ----------
    path
        The ``.onnx`` file; weights that it has put aside must lie next to it.

    Raises
    ------
    ModelBuildError
        If it is not a model, or its weights are missing, too short, or not next to it.
    """
    import onnx  # noqa: PLC0415

    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's
        raise ModelBuildError(f"{path} cannot be read as an ONNX graph: {error}; export or copy it again") from error
    aside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in aside:
        tensor.raw_data = _read(path, tensor)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    return model.SerializeToString(deterministic=True) if aside else data


def _read(path: Path, tensor: onnx.TensorProto) -> bytes:
    where = {entry.key: entry.value for entry in tensor.external_data}
    name = where.get("location", "")
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        raise ModelBuildError(f"{path} must have its weights in a file next to it, got '{name:.80}'")
    file = path.with_name(name)
    try:
        offset, length = int(where["offset"]), int(where["length"])
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError, KeyError) as error:
        raise ModelBuildError(f"{path}: its weights in {file} cannot be read: {error}") from error
    if len(data) != length:
        raise ModelBuildError(
            f"{file} must hold all weights of {path.name}, got a shorter file; copy both files together"
        )
    return data


def write(folder: Path, model: bytes) -> None:
    """Write a self-contained model to a folder, as it is deployed."""
    graph, weights = split(model)
    (folder / MODEL).write_bytes(graph)
    if weights:
        (folder / WEIGHTS).write_bytes(weights)


def files(folder: Path) -> list[Path]:
    """Return the files of the model in a folder: the graph, and its weights if they lie aside."""
    weights = folder / WEIGHTS
    return [folder / MODEL, *([weights] if weights.is_file() else [])]


def digest(folder: Path) -> str:
    """Return the SHA-256 over ``model.onnx`` followed by ``model.weights``, if there is one.

    Raises
    ------
    OSError
        If there is no model.
    """
    total = hashlib.sha256()
    for path in files(folder):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()


def size(folder: Path) -> int:
    """Return the bytes of the model's files."""
    return sum(path.stat().st_size for path in files(folder))
