"""The files of a deployed model: each graph, and next to it the large weights, which ONNX Runtime maps into memory.

``model.onnx`` names each tensor of ``model.weights`` by offset and length, as ONNX's "external data". The two must lie
in one folder, and the model must be opened by its path. `join` makes one file of them again, for whatever takes no
other. A model of several graphs has ``driver.json``, and two such files for each graph, of the graph's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files.packed import DRIVER, driver_text, is_packed, names, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    import onnx

    Model: TypeAlias = bytes | Path
    """A self-contained model, or the path that one is opened by if it is too large to be held in memory."""

MODEL = "model.onnx"
WEIGHTS = "model.weights"

_FILE = re.compile(r"driver\.json|[a-z][a-z0-9_]*\.(onnx|weights)")

LEAST_BYTES = 16 * 1024
"""Smaller weights stay in the graph: ONNX Runtime checks the path of each tensor that lies elsewhere, which costs more
than to copy 16 KiB."""

ALIGNMENT = 4096
"""Each weight begins on a new page, so that a page is read when, and only if, its weight is used."""

_HEAD = 64  # bytes of weights that are compared first

LARGE = 2**30
"""Graphs of more bytes are not held in memory with their weights."""

MESSAGE = 2**31
"""A message of protobuf, and so a graph in one file, must have fewer bytes."""


def belongs(name: str) -> bool:
    """Tell whether a file of this name is one that a function opens its model with."""
    return bool(_FILE.fullmatch(name))


def split(model: bytes, aside: str = WEIGHTS) -> tuple[bytes, bytes]:
    """Put the large weights of a self-contained graph aside. The same graph gives the same bytes.

    Parameters
    ----------
    model
        The graph.
    aside
        The name of the file that its large weights go to.

    Returns
    -------
    tuple[bytes, bytes]
        What goes to the graph's file, and what goes to that of the weights, which is empty if all are small.
    """
    import onnx  # noqa: PLC0415 - an app that only deploys needs it not
    from onnx.external_data_helper import set_external_data  # noqa: PLC0415

    graph = onnx.load_model_from_string(model)
    large = [tensor for tensor in graph.graph.initializer if len(tensor.raw_data) >= LEAST_BYTES]
    offsets = lay_out([memoryview(tensor.raw_data) for tensor in large])
    weights = bytearray(max((at + len(t.raw_data) for t, at in zip(large, offsets, strict=True)), default=0))
    for tensor, offset in zip(large, offsets, strict=True):
        length = len(tensor.raw_data)
        weights[offset : offset + length] = tensor.raw_data
        set_external_data(tensor, aside, offset=offset, length=length)
        tensor.ClearField("raw_data")
    return (graph.SerializeToString(deterministic=True) if weights else model), bytes(weights)


def lay_out(weights: Sequence[memoryview]) -> list[int]:
    """Return the offset of each weight in the file of all, by their bytes.

    Each begins on a page. Weights that are the parts of a larger one, from its beginning on, lie within that. Those
    that are equal lie at one place. ONNX Runtime maps each of them by itself, and drops it once it is packed.
    """
    within: dict[int, tuple[int, int]] = {}
    by_head: dict[bytes, list[int]] = {}
    for index, data in enumerate(weights):
        alike = by_head.setdefault(bytes(data[:_HEAD]), [])
        same = next((other for other in alike if weights[other] == data), None)
        if same is None:
            alike.append(index)
        else:
            within[index] = same, 0
    for index in sorted({*range(len(weights))}.difference(within), key=lambda index: -len(weights[index])):
        whole, at, part = weights[index], 0, index
        while part >= 0 and at % ALIGNMENT == 0:
            alike = by_head.get(bytes(whole[at : at + _HEAD]), [])
            fits = (n for n in alike if n not in within and len(weights[n]) < len(whole))
            part = next((n for n in fits if whole[at : at + len(weights[n])] == weights[n]), -1)
            if part >= 0:
                within[part] = index, at
                at += len(weights[part])
    offsets, end = [0] * len(weights), 0
    for index, data in enumerate(weights):
        if index not in within:
            offsets[index] = end + -end % ALIGNMENT
            end = offsets[index] + len(data)
    for index in within:
        holder, before = index, 0
        while holder in within:
            holder, first = within[holder]
            before += first
        offsets[index] = offsets[holder] + before
    return offsets


def join(path: Path) -> bytes:
    """Return a model as one self-contained file, which runs anywhere, wherever its weights lie now.

    Parameters
    ----------
    path
        The file that it is opened by, see `entry`; what belongs to it must lie next to it.

    Raises
    ------
    ModelBuildError
        If it is not a model, its weights are missing, too short, or not next to it, or are more than one file holds.
    """
    if path.name == DRIVER:
        description = json.loads(path.read_text("utf-8"))
        return pack(description, {name: join(path.with_name(f"{name}.onnx")) for name in names(description)})
    import onnx  # noqa: PLC0415

    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's
        raise ModelBuildError(f"{path} cannot be read as an ONNX graph: {error}; export or copy it again") from error
    aside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if (total := size_of_graph(path)) >= MESSAGE:
        raise ModelBuildError(
            f"{path} must be below {MESSAGE / 1e9:.1f} GB with its weights to become one file, got "
            f"{total / 1e9:.1f} GB; open it by its path"
        )
    for tensor in aside:
        tensor.raw_data = _read(path, tensor)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    return model.SerializeToString(deterministic=True) if aside else data


def read(path: Path) -> bytes:
    """Return a model of a build whose weights are in its graphs, or in the files of `write`: `join` without a look."""
    apart = path.name == DRIVER or path.with_suffix(".weights").is_file()
    return join(path) if apart else path.read_bytes()


def is_large(path: Path) -> bool:
    """Tell whether a model stays in its files, by the file that it is opened by: as soon as one graph is large."""
    found = graphs(path.parent).values() if path.name == DRIVER else (path,)
    return any(size_of_graph(graph) > LARGE for graph in found)


def whole(path: Path) -> Model:
    """Return a model as a build runs it: what `join` returns, or the path if it is large."""
    return path if is_large(path) else join(path)


def parts(model: Model) -> tuple[dict[str, Any], dict[str, Model]]:
    """Return what ``driver.json`` says of a model of several graphs, and each graph by name, as a build runs it."""
    if isinstance(model, bytes):
        description, packed = unpack(model)
        return description, {**packed}
    description = json.loads(model.read_text("utf-8"))
    return description, {name: whole(model.with_name(f"{name}.onnx")) for name in names(description)}


def sha256(path: Path) -> str:
    """Return the SHA-256 of what `read` returns, or that of its files if it is large."""
    return identity(path if is_large(path) else read(path))


def identity(model: Model) -> str:
    """Return the SHA-256 of a self-contained model, or of the files of another."""
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    found = [(file, file.stat()) for file in _files_of(model.absolute())]
    return _hashed(tuple((file, known.st_ino, known.st_size, known.st_mtime_ns) for file, known in found))


@lru_cache(maxsize=16)
def _hashed(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    """Return the SHA-256 over files, one after the other, which takes seconds for each few gigabytes."""
    total = hashlib.sha256()
    for file, *_ in files:
        _update(total, file)
    return total.hexdigest()


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


def write(folder: Path, model: Model, *, aside: bool = True) -> None:
    """Write a model to a folder, as it is deployed; or with all weights in its graphs, if not aside and not large."""
    if isinstance(model, Path):
        for file in _files_of(model):
            link(file, folder / file.name)
        return
    graphs = {MODEL.removesuffix(".onnx"): model}
    if is_packed(model):
        description, graphs = unpack(model)
        (folder / DRIVER).write_text(driver_text(description), "utf-8")
    for name, content in graphs.items():
        graph, weights = split(content, f"{name}.weights") if aside else (content, b"")
        (folder / f"{name}.onnx").write_bytes(graph)
        if weights:
            (folder / f"{name}.weights").write_bytes(weights)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links. A symbolic link is followed."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def entry(folder: Path) -> Path:
    """Return the file that the model in a folder is opened by: ``driver.json`` if it has several graphs."""
    driver = folder / DRIVER
    return driver if driver.is_file() else folder / MODEL


def graphs(folder: Path) -> dict[str, Path]:
    """Return the files of the model's graphs, by name; a single one is called ``model``."""
    opened = entry(folder)
    if opened.name == MODEL:
        return {MODEL.removesuffix(".onnx"): opened}
    return {name: folder / f"{name}.onnx" for name in names(json.loads(opened.read_text("utf-8")))}


def files(folder: Path) -> list[Path]:
    """Return the files of the model in a folder: what is opened, and the weights that lie aside."""
    return _files_of(entry(folder))


def size_of_graph(graph: Path) -> int:
    """Return the bytes of a graph's files."""
    return sum(path.stat().st_size for path in _files_of_graph(graph))


def _files_of(opened: Path) -> list[Path]:
    if opened.name != DRIVER:
        return _files_of_graph(opened)
    return [opened, *(file for graph in graphs(opened.parent).values() for file in _files_of_graph(graph))]


def _files_of_graph(graph: Path) -> list[Path]:
    weights = graph.with_suffix(".weights")
    return [graph, *([weights] if weights.is_file() else [])]


def digest(folder: Path) -> str:
    """Return the SHA-256 over the model's files, one after the other.

    Raises
    ------
    OSError
        If there is no model.
    ValueError
        If its ``driver.json`` is damaged.
    """
    total = hashlib.sha256()
    for path in files(folder):
        _update(total, path)
    return total.hexdigest()


def _update(total: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)


def size(folder: Path) -> int:
    """Return the bytes of the model's files."""
    return sum(path.stat().st_size for path in files(folder))
