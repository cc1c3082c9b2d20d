"""Reads and checks the files that a finished build left in the cache."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.common.escaping import clean, clean_all
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.card.boxes import COLUMNS
from cdk_inference.model.recipe.structure import structure
from cdk_inference.model.records.faithfulness import EXPLANATIONS_FILE, Faithfulness, read_faithfulness
from cdk_inference.model.records.manifest import Manifest, Measured

if TYPE_CHECKING:
    from pathlib import Path

REPORT_VERSION = 1

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Candidate:
    """One precision that the build looked at; None is what was not measured."""

    name: str
    precision: dict[str, Any]
    status: str
    reason: str | None = None
    quality: float | None = None
    cosine: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Gate:
    """The figure that the deployed model had to reach, and the one that it reached."""

    metric: str
    baseline: float
    deployed: float
    limit: float
    higher_is_better: bool
    samples: int
    floor: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None


@dataclass(frozen=True)
class Report:
    """``report.json``; optional is what a build may not have measured."""

    schema_version: int
    name: str
    model_version: str
    architecture: str
    recipe: dict[str, Any]
    candidates: list[Candidate]
    gate: Gate
    class_names: list[str] | None = None
    host: dict[str, Any] = field(default_factory=dict)
    locked: bool = False
    auto: bool = True
    peak_memory_mb: dict[str, float] | None = None
    measured: Measured | None = None
    parity: dict[str, float] = field(default_factory=dict)
    passes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """A finished build.

    Parameters
    ----------
    manifest, report
        The two JSON files, every text in them cleaned.
    shipped
        The candidate that is deployed.
    float_outputs, deployed_outputs
        Outputs for all evaluation samples by name, in the manifest's order, (samples, …); empty if the build
        kept none.
    labels
        (samples,) or None.
    inputs
        The first evaluation samples by input name, (≤ 12, …); empty if the build kept none.
    numbers
        Where the samples in `inputs` stand among all evaluation samples, (≤ 12,) int64.
    descriptions
        A text for each of the samples in `inputs`, or None.
    boxes
        The boxes that both models find in the samples in `inputs`, under ``"float"`` and ``"deployed"``, (boxes, 7).
        The columns are those of `boxes`. Empty if the model is not a detector, or the build kept none.
    explanations
        The measurements of the explanations that apps ask for; empty if none does.
    """

    manifest: Manifest
    report: Report
    shipped: Candidate
    float_outputs: dict[str, Array]
    deployed_outputs: dict[str, Array]
    labels: Array | None
    inputs: dict[str, Array]
    numbers: list[int]
    descriptions: list[str] | None
    boxes: dict[str, Array] = field(default_factory=dict)
    explanations: list[Faithfulness] = field(default_factory=list)

    @property
    def baseline(self) -> Candidate:
        """The float32 model."""
        return self.report.candidates[0]

    @property
    def is_float(self) -> bool:
        """Whether nothing was quantized."""
        return self.shipped is self.baseline


def read(folder: Path) -> Entry:
    """Read a finished build.

    Raises
    ------
    ModelBuildError
        If a file that every build writes is missing, or any file is damaged.
    """
    manifest = _manifest(folder / "artifact" / "manifest.json")
    report = _report(folder / "report.json")
    if manifest.model_version != report.model_version:
        raise ModelBuildError(
            f"{folder} must hold one build, got version {manifest.model_version} in manifest.json and "
            f"{report.model_version} in report.json; build the model again"
        )
    shipped = [c for c in report.candidates if c.status == "shipped"]
    if len(shipped) != 1:
        raise ModelBuildError(
            f"{folder / 'report.json'} must mark one candidate as shipped, got {len(shipped)}; build the model again"
        )
    evaluation = _arrays(folder / "evaluation.npz")
    samples = _arrays(folder / "samples.npz")
    names = [o.name for o in manifest.outputs if {f"float_{o.name}", f"deployed_{o.name}"} <= evaluation.keys()]
    float_outputs = {n: _numbers(evaluation, f"float_{n}", folder) for n in names}
    deployed_outputs = {n: _numbers(evaluation, f"deployed_{n}", folder) for n in names}
    labels = evaluation.get("labels")
    shapes = {f"{n}": (float_outputs[n].shape, deployed_outputs[n].shape) for n in names}
    sizes = {shape[0] for pair in shapes.values() for shape in pair}
    if any(a != b for a, b in shapes.values()) or len(sizes) > 1 or (labels is not None and {len(labels)} != sizes):
        raise ModelBuildError(
            f"{folder / 'evaluation.npz'}: float and deployed outputs must have the same shapes, got {shapes} and "
            f"labels {None if labels is None else labels.shape}; build the model again"
        )
    inputs = {i.name: samples[f"input_{i.name}"] for i in manifest.inputs if f"input_{i.name}" in samples}
    if len({len(a) for a in inputs.values()}) > 1:
        raise ModelBuildError(
            f"{folder / 'samples.npz'}: inputs must have the same number of samples; build the model again"
        )
    descriptions = samples.get("descriptions")
    # Inputs of different sizes are not kept: the descriptions stand for them.
    kept = [*inputs.values(), *([] if descriptions is None else [descriptions])]
    count = len(kept[0]) if kept else 0
    numbers = samples.get("numbers", np.arange(count))[: None if kept else 0]
    if numbers.dtype.kind not in "iu" or numbers.shape != (count,) or np.any(numbers < 0):
        raise ModelBuildError(f"{folder / 'samples.npz'}: 'numbers' must number {count} samples; build the model again")
    return Entry(
        manifest=manifest,
        report=report,
        shipped=shipped[0],
        float_outputs=float_outputs,
        deployed_outputs=deployed_outputs,
        labels=labels,
        inputs=inputs,
        numbers=numbers.tolist(),
        descriptions=None if descriptions is None else [clean(str(d)) for d in descriptions],
        boxes=_boxes(samples, count, folder),
        explanations=_explanations(folder / EXPLANATIONS_FILE),
    )


def _json(file: Path) -> dict[str, Any]:
    """Return an object from a file, every text in it cleaned."""
    try:
        data = clean_all(json.loads(file.read_text("utf-8")))
    except FileNotFoundError as error:
        raise ModelBuildError(f"{file} does not exist; the card needs a finished build, so build the model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelBuildError(f"{file} cannot be read: {error}; build the model again") from error
    if not isinstance(data, dict):
        raise ModelBuildError(f"{file} must hold a JSON object, got {type(data).__name__}; build the model again")
    return data


def _manifest(file: Path) -> Manifest:
    try:
        return Manifest.from_json(json.dumps(_json(file)))
    except ValueError as error:
        raise ModelBuildError(f"{file} cannot be used: {error}; build the model again") from error


def _report(file: Path) -> Report:
    data = _json(file)
    if data.get("schema_version") != REPORT_VERSION:
        raise ModelBuildError(
            f"{file} must have schema version {REPORT_VERSION}, got {data.get('schema_version')!r}; "
            "build the model again"
        )
    try:
        return structure(data, Report)
    except ValueError as error:
        raise ModelBuildError(f"{file} cannot be used: {error}; build the model again") from error


def _explanations(file: Path) -> list[Faithfulness]:
    try:
        return read_faithfulness(file)
    except (OSError, ValueError) as error:
        raise ModelBuildError(f"{file} cannot be used: {error}; delete it") from error


def _arrays(file: Path) -> dict[str, Array]:
    """Return the arrays of a file; none if the build did not write it."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return {}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ModelBuildError(f"{file} cannot be read: {error}; build the model again") from error


def _boxes(samples: dict[str, Array], count: int, folder: Path) -> dict[str, Array]:
    found = {model: samples[f"boxes_{model}"] for model in ("float", "deployed") if f"boxes_{model}" in samples}
    for name, boxes in found.items():
        right = boxes.dtype.kind == "f" and boxes.ndim == 2 and boxes.shape[1] == COLUMNS  # noqa: PLR2004
        if not right or not np.all(np.isfinite(boxes)) or np.any((boxes[:, 0] < 0) | (boxes[:, 0] >= count)):
            raise ModelBuildError(
                f"{folder / 'samples.npz'}: 'boxes_{name}' must have {COLUMNS} finite numbers for each box, got "
                f"{boxes.dtype} {boxes.shape}; build the model again"
            )
    return found if len(found) == 2 else {}  # noqa: PLR2004


def _numbers(arrays: dict[str, Array], name: str, folder: Path) -> Array:
    array = arrays[name]
    if array.dtype.kind not in "biuf" or array.ndim == 0 or not np.all(np.isfinite(array)):
        raise ModelBuildError(
            f"{folder / 'evaluation.npz'}: '{name}' must have a row of finite numbers for each sample, got "
            f"{array.dtype} {array.shape}; build the model again"
        )
    return array
