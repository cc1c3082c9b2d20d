"""Writes the folder of a page that runs a model by onnxruntime-web, on the visitor's machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError
from inference_runtime.model import MODEL_FILE

if TYPE_CHECKING:
    from cdk_inference.model.records.manifest import Manifest

PAGE = Path(__file__).with_name("page")
WEIGHTS_FILE = "model.weights"

LIBRARY = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web that the page loads, from the folder ``dist`` of the npm package."""

DTYPES = frozenset(
    {
        *("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("bool", "string"),
    }
)
"""The types of tensors that the page can make."""


def write_page(
    model: Path, manifest: Manifest, output: Path, *, library: Path, labels: tuple[str, ...] | None = None
) -> list[Path]:
    """Write the model, the page and the library into a folder, which any server of static files serves.

    Parameters
    ----------
    model
        The folder of the built model.
    manifest
        Its manifest.
    output
        The folder to write; made if missing.
    library
        The folder of the npm package ``onnxruntime-web``.
    labels
        The names of the classes of the model's only output. Default: the page shows numbers.

    Returns
    -------
    list
        The files that were written.

    Raises
    ------
    PropError
        The page cannot run the model, the labels do not fit it, or the library is not there.
    """
    if not (model / MODEL_FILE).is_file():
        raise PropError(f"model must be one graph, got several: {manifest.name} needs a server")
    tensors = (*manifest.inputs, *manifest.outputs)
    if unknown := sorted({spec.dtype for spec in tensors} - DTYPES):
        raise PropError(f"dtype of all inputs and outputs must be one that pages have, got {', '.join(unknown)}")
    _check_labels(manifest, labels)
    files = {name: library / "dist" / name for name in LIBRARY}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        raise PropError(f"onnxruntime_web must be the folder of the npm package, got '{library}' without {missing[0]}")
    sources = {path.name: path for path in PAGE.iterdir() if path.is_file()}
    sources |= {name: model / name for name in (MODEL_FILE, WEIGHTS_FILE) if (model / name).is_file()}
    sources |= {f"ort/{name}": path for name, path in files.items()}
    written = []
    for name, source in sorted(sources.items()):
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        written.append(target)
    described = output / "model.json"
    described.write_text(json.dumps(_description(model, manifest, labels), indent=2) + "\n", encoding="utf-8")
    return [*written, described]


def _check_labels(manifest: Manifest, labels: tuple[str, ...] | None) -> None:
    if labels is None:
        return
    shape = manifest.outputs[0].shape[1:]
    if len(manifest.outputs) != 1 or shape != (len(labels),):
        found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in manifest.outputs)
        raise PropError(f"labels must name the values of the model's only output, {found}, got {len(labels)}")


def _description(model: Path, manifest: Manifest, labels: tuple[str, ...] | None) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.model_version,
        "file": MODEL_FILE,
        "weights": WEIGHTS_FILE if (model / WEIGHTS_FILE).is_file() else None,
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in manifest.inputs],
        "outputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in manifest.outputs],
        "labels": labels,
    }
