"""Graphs whose large weights stay in files, so that a model of many gigabytes is never in memory as a whole.

Such a graph names the file of each large weight by its absolute path, and `values` maps it into memory. New weights go
to a file too, within `spooling`. The files of a finished graph are those that `cdk_inference.model.files.weights`
describes, byte for byte.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files import weights
from cdk_inference.model.files.packed import DRIVER, driver_text, pack
from cdk_inference.model.files.weights import ALIGNMENT, LEAST_BYTES, MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import onnxruntime as ort

    from cdk_inference.model.files.weights import Model

    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

NAME = MODEL.removesuffix(".onnx")
"""The name of a graph that is alone."""

_PIECE = 1 << 22  # bytes copied at once


class Spool:
    """A file that gets weights one after the other.

    Parameters
    ----------
    folder
        The folder of the file, which whoever uses the weights removes with it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder.absolute() / "spool.weights"
        self._end = self._file.stat().st_size if self._file.exists() else 0

    def add(self, tensor: TensorProto, data: bytes | memoryview) -> TensorProto:
        """Write the bytes of a weight, and return the tensor, which then refers to them."""
        with self._file.open("ab") as stream:
            stream.write(b"\0" * (-self._end % ALIGNMENT))
            offset = self._end + -self._end % ALIGNMENT
            stream.write(data)
        length = len(data)
        self._end = offset + length
        refer(tensor, str(self._file), offset, length)
        return tensor


_spool: ContextVar[Spool | None] = ContextVar("spool", default=None)


@contextlib.contextmanager
def spooling(folder: Path) -> Iterator[None]:
    """Let `stored` write large weights to a file of a folder, from here to the end of the context."""
    token = _spool.set(Spool(folder))
    try:
        yield
    finally:
        _spool.reset(token)


def stored(values: Array, name: str) -> TensorProto:
    """Return values as a weight, which lies in a file within `spooling` if it is large."""
    spool = _spool.get()
    ordered = np.asarray(values, order="C")
    if spool is None or ordered.nbytes < LEAST_BYTES:
        return numpy_helper.from_array(ordered, name)
    kind = onnx.helper.np_dtype_to_tensor_dtype(ordered.dtype)
    return spool.add(
        TensorProto(name=name, data_type=kind, dims=ordered.shape), ordered.reshape(-1).view(np.uint8).data
    )


def load(path: Path) -> onnx.ModelProto:
    """Return the graph of a file, with its weights if they are not large together."""
    return _referring(path) if weights.is_large(path) else onnx.load(path)


def _referring(path: Path) -> onnx.ModelProto:
    model = onnx.load(path, load_external_data=False)
    nested = [*_nested(model.graph.node)]
    for tensor in (*model.graph.initializer, *nested):
        if is_tensor_aside(tensor):
            where = place(tensor)
            refer(tensor, str(path.absolute().parent / where[0]), *where[1:])
    # onnxruntime saves those of branches and loops to the file too, but files of models have none of them.
    for tensor in nested:
        if is_tensor_aside(tensor):
            tensor.CopyFrom(_included(tensor))
    return model


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Yield the weights of graphs within nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from graph.initializer
                yield from _nested(graph.node)


def parsed(model: Model) -> onnx.ModelProto:
    """Return the graph of a model."""
    return onnx.load_from_string(model) if isinstance(model, bytes) else _referring(model)


def is_aside(model: onnx.ModelProto) -> bool:
    """Tell whether weights of a graph lie in files."""
    return any(is_tensor_aside(tensor) for tensor in model.graph.initializer)


def place(tensor: TensorProto) -> tuple[str, int, int]:
    """Return the file of a weight that lies in one, its offset, and its length in bytes."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    return where["location"], int(where["offset"]), int(where["length"])


def values(tensor: TensorProto) -> Array:
    """Return the values of a weight; those of a file are mapped, and read page by page as they are used."""
    if not is_tensor_aside(tensor):
        return numpy_helper.to_array(tensor)
    file, offset, length = place(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if length == prod(shape) * dtype.itemsize and length:
        return np.memmap(file, dtype, "r", offset, shape)
    return numpy_helper.to_array(_included(tensor))  # several values share a byte


def size(tensor: TensorProto) -> int:
    """Return the bytes of a weight with its description, wherever it lies."""
    return int(tensor.ByteSize()) + (place(tensor)[2] if is_tensor_aside(tensor) else 0)


def total_size(model: onnx.ModelProto) -> int:
    """Return the bytes of a graph and of its weights, wherever they lie."""
    return int(model.ByteSize()) + sum(place(t)[2] for t in model.graph.initializer if is_tensor_aside(t))


def included(model: onnx.ModelProto, subject: str, fix: str) -> onnx.ModelProto:
    """Return a graph that holds all its weights, for tools that know no others.

    Parameters
    ----------
    subject, fix
        Say in the message what needs it, and what to do if it is too large.

    Raises
    ------
    ModelBuildError
        If it is more than one message of protobuf can hold.
    """
    if not is_aside(model):
        return model
    if (total := total_size(model)) >= weights.MESSAGE:
        raise ModelBuildError(
            f"{subject} must be below {weights.MESSAGE / 1e9:.1f} GB with its weights, got {total / 1e9:.1f} GB; {fix}"
        )
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if is_tensor_aside(tensor):
            tensor.CopyFrom(_included(tensor))
    return whole


def write(model: onnx.ModelProto, folder: Path, name: str = NAME) -> Model:
    """Write a graph to a folder, and return how it is opened: by its bytes, or by its path if it is large."""
    if is_aside(model) or total_size(model) > weights.LARGE:
        return save(model, folder, name)
    data: bytes = model.SerializeToString(deterministic=True)
    (folder / f"{name}.onnx").write_bytes(data)
    return data


def gathered(description: Mapping[str, Any], graphs: Mapping[str, Model], folder: Path) -> Model:
    """Return several graphs as one model, whose files are in a folder if one of them is large.

    Parameters
    ----------
    description
        The content of ``driver.json``.
    graphs
        By name.
    """
    held = {name: graph for name, graph in graphs.items() if isinstance(graph, bytes)}
    if len(held) == len(graphs):
        return pack(description, held)
    for name, graph in graphs.items():
        save(parsed(graph), folder, name)
    (folder / DRIVER).write_text(driver_text(description), "utf-8")
    return folder / DRIVER


def save(model: onnx.ModelProto, folder: Path, name: str = NAME) -> Path:
    """Write a graph and, next to it, its large weights: the same files as `weights.write` makes of its bytes.

    A file of weights that is laid out so already is linked, not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    target = folder / f"{name}.weights"
    large: list[TensorProto] = []
    for tensor in copy.graph.initializer:
        if _length(tensor) >= LEAST_BYTES:
            large.append(tensor)
        elif is_tensor_aside(tensor):
            tensor.CopyFrom(_included(tensor))
    pieces = [*zip(large, weights.lay_out([_bytes(tensor) for tensor in large]), strict=True)]
    if pieces and not _linked(pieces, target):
        target.unlink(missing_ok=True)  # it may be linked to another graph's
        with target.open("wb") as stream:
            for tensor, offset in pieces:
                stream.seek(offset)
                stream.writelines(_data(tensor))
    for tensor, offset in pieces:
        refer(tensor, target.name, offset, _length(tensor))
    graph = folder / f"{name}.onnx"
    graph.write_bytes(copy.SerializeToString(deterministic=True))
    return graph


def link(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a graph next to links of the files of its weights: onnxruntime opens no files of other folders."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names: dict[str, str] = {}
    for tensor in copy.graph.initializer:
        if is_tensor_aside(tensor):
            file, offset, length = place(tensor)
            name = names.setdefault(file, f"{len(names)}.weights")
            refer(tensor, name, offset, length)
    for file, name in names.items():
        (folder / name).unlink(missing_ok=True)
        weights.link(Path(file), folder / name)
    (folder / MODEL).write_bytes(copy.SerializeToString())
    return folder / MODEL


def keep_aside(options: ort.SessionOptions, name: str) -> None:
    """Let onnxruntime save large weights to a file of this name, next to the graph, and take none into memory."""
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", name)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(LEAST_BYTES)
    )
    options.add_session_config_entry("session.disable_prepacking", "1")


def is_tensor_aside(tensor: TensorProto) -> bool:
    """Tell whether a weight lies in a file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor name its file as `onnx.external_data_helper` does."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _length(tensor: TensorProto) -> int:
    return place(tensor)[2] if is_tensor_aside(tensor) else len(tensor.raw_data)


def _bytes(tensor: TensorProto) -> memoryview:
    """Return the bytes of a weight; those of a file are mapped."""
    if not is_tensor_aside(tensor):
        return memoryview(tensor.raw_data)
    file, offset, length = place(tensor)
    _check_whole(file, offset + length)
    return np.memmap(file, np.uint8, "r", offset, (length,)).data


def _check_whole(file: str, end: int) -> None:
    if (missing := end - Path(file).stat().st_size) > 0:
        raise ModelBuildError(
            f"{file} must hold all weights of its graph, got a file that is {missing} bytes too short"
        )


def _included(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.raw_data = b"".join(_data(tensor))
    del copy.external_data[:]
    copy.ClearField("data_location")
    return copy


def _data(tensor: TensorProto) -> Iterator[bytes]:
    """Yield the bytes of a weight, piece by piece if they lie in a file."""
    if not is_tensor_aside(tensor):
        yield tensor.raw_data
        return
    file, offset, left = place(tensor)
    _check_whole(file, offset + left)
    with Path(file).open("rb") as stream:
        stream.seek(offset)
        while left and (data := stream.read(min(_PIECE, left))):
            left -= len(data)
            yield data


def _linked(pieces: Sequence[tuple[TensorProto, int]], target: Path) -> bool:
    """Link the file of the weights if it is one that is laid out as asked, and tell whether it was."""
    if not all(is_tensor_aside(tensor) and place(tensor)[1] == offset for tensor, offset in pieces):
        return False
    files = {place(tensor)[0] for tensor, _ in pieces}
    source = Path(files.pop())
    if files or source.stat().st_size != max(offset + _length(tensor) for tensor, offset in pieces):
        return False
    if not (target.exists() and source.samefile(target)):
        weights.link(source, target)
    return True
