"""The lock file: what a search decided, so that every machine builds the same bytes without measuring."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cdk_inference.common.cache import hash_data
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.evaluation import limit, passes
from cdk_inference.model.recipe.precision import Pinned
from cdk_inference.model.recipe.structure import structure, unstructure
from cdk_inference.model.recipe.targets import Target
from cdk_inference.model.records.fingerprint import changed_files
from cdk_inference.model.records.manifest import Distribution, Measured, Metric, Observation, without_empty

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.model.recipe.evaluation import Evaluation

SCHEMA_VERSION = 4

_SAME = 1e-4  # of the gate, which is recorded with five digits
_PAIR = re.compile(r"\[\s+(-?[\d.e+-]+),\s+(-?[\d.e+-]+)\s+\]")
_BINS = re.compile(r'"(?:counts|edges)": \[[^\]]+\]')


@dataclass(frozen=True)
class Candidate:
    """The findings about one precision.

    Parameters
    ----------
    name
        For people.
    status
        ``"shipped"``, ``"passed"`` (the gate, but another is better), ``"failed"`` (the gate), ``"slower"`` (than
        float32), ``"error"`` or ``"reference"``, which float32 is unless it ships.
    reason
        Why, in words; empty if there is nothing to add.
    precision
        The precision.
    quality
        Value of the gate's metric; None if it could not be measured.
    cosine
        How like the outputs are to those of float32, as the metric ``"cosine"`` tells.
    size_bytes
        The size of the model as it is deployed.
    latency_ms
        For one sample on one thread of the machine that searched: that of float32, divided by the speedup.
    speedup
        Time of float32 divided by the time of this: the median over rounds of alternated runs.
    """

    name: str
    status: str
    reason: str
    precision: Pinned
    quality: float | None = None
    cosine: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Lock:
    """A decision, and what it was made on.

    Parameters
    ----------
    name
        The recipe's name.
    basis
        Short hashes of what it was made on: fields of the recipe, files in its folder, code of packages.
    tools
        Versions of the tools and of the recipe's packages.
    precision
        The precision that ships.
    ranges
        Lowest and highest value of each activation, as calibrated; None if the precision needs none.
    sha256
        The SHA-256 of the model that ships: of ``model.onnx``, followed by ``model.weights`` if there is one.
    architecture
        The kind of network that the search took the model for.
    target
        The target of the build: an architecture, or ``"any"`` if it has no 8-bit products.
    exact_on
        See `cdk_inference.model.Manifest`.
    metric
        The gate, which passed.
    parity
        See `cdk_inference.model.Manifest`.
    measured
        Latency and memory on the machine that searched.
    distributions
        See `cdk_inference.model.Manifest`.
    candidates
        All that was tried.
    baseline, sound_seconds
        See `cdk_inference.model.Manifest`.
    """

    name: str
    basis: dict[str, str]
    tools: dict[str, str]
    precision: Pinned
    ranges: dict[str, tuple[float, float]] | None
    sha256: str
    architecture: str
    target: Target
    exact_on: tuple[str, ...]
    metric: Metric
    parity: dict[str, float]
    measured: Measured
    distributions: dict[str, Distribution]
    candidates: tuple[Candidate, ...]
    baseline: tuple[Observation, ...] = ()
    sound_seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Hash of everything in it."""
        return hash_data(self.to_data())

    def to_data(self) -> dict[str, Any]:
        """Return the lock as JSON-compatible data."""
        return without_empty(unstructure(self))

    def to_json(self) -> str:
        """Serialize for a review: sorted keys, one activation a line, and a checksum against bad merges."""
        text = json.dumps(self.to_data() | {"checksum": self.digest}, indent=1, sort_keys=True)
        text = _BINS.sub(lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
        return _PAIR.sub(r"[\1, \2]", text) + "\n"

    def stale(self, basis: Mapping[str, str], tools: Mapping[str, str]) -> str | None:
        """Return why the decision does not hold for a recipe and tools; None if it does."""
        return ", ".join([*changed_files(self.basis, basis), *changes(deciding(self.tools), deciding(tools))]) or None

    def judged_by(self, evaluation: Evaluation) -> Lock:
        """Return the decision with the gate that an evaluation sets today.

        Raises
        ------
        ModelBuildError
            If what was measured does not pass it.
        """
        metric = self.metric
        gate = limit(evaluation, metric.baseline)
        # A figure that did not change keeps the digits that it was recorded with.
        if abs(gate - metric.gate) <= _SAME * max(abs(gate), abs(metric.baseline)):
            gate = metric.gate
        shipped = next((c for c in self.candidates if c.status == "shipped"), None)
        size = (shipped.size_bytes or 0) / 1e6 if shipped else 0.0
        found = [
            (
                not passes(evaluation, metric.quantized, gate),
                f"{metric.name} {metric.quantized:g}",
                f"the gate {gate:g}",
            ),
            (size > (evaluation.max_size_mb or inf), f"{size:.2f} MB", f"max_size_mb {evaluation.max_size_mb}"),
            (
                self.measured.deployed_ms > (evaluation.max_latency_ms or inf),
                f"{self.measured.deployed_ms:g} ms",
                f"max_latency_ms {evaluation.max_latency_ms}",
            ),
        ]
        if misses := [f"its model has {value}, beyond {bound}" for missed, value, bound in found if missed]:
            raise ModelBuildError(", ".join(misses))
        return replace(self, metric=replace(metric, gate=float(f"{gate:.5g}")))


def deciding(tools: Mapping[str, str]) -> dict[str, str]:
    """Return the tools whose versions decide about a build; of this library, the code in `model.building` does."""
    return {name: version for name, version in tools.items() if name != "cdk-inference"}


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return how versions differ, such as ``onnx 1.22.0 -> 1.23.2``."""
    return [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def read_lock(path: Path) -> Lock | None:
    """Return the lock in a file, or None if there is no file.

    Raises
    ------
    ModelBuildError
        If the file is not a lock that this version can read.
    """
    return read_checked(path, Lock, SCHEMA_VERSION, "search again")


class Checked(Protocol):
    """A dataclass that is kept with a checksum."""

    @property
    def digest(self) -> str:
        """Hash of everything in it."""


C = TypeVar("C", bound=Checked)


def read_checked(path: Path, kind: type[C], schema_version: int, again: str) -> C | None:
    """Return a lock of some kind, or None if there is no file.

    Parameters
    ----------
    path
        The file.
    kind
        Its dataclass.
    schema_version
        The only one that is read.
    again
        The consequence of deleting the file.

    Raises
    ------
    ModelBuildError
        If the file is not such a lock, with what is wrong and the way out.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelBuildError(f"cannot read the lock {path}: {error}; restore it, or delete it to {again}") from error
    try:
        data = json.loads(text)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version == schema_version:
            checksum = data.pop("checksum", None)
            lock = structure(data, kind)
            if lock.digest == checksum:
                return lock
            raise ValueError("its checksum is not that of its content, as after an edit or a merge")  # noqa: TRY301
        reason = f"it has schema version {version!r}, expected {schema_version}"
    except (ValueError, RecursionError, ModelBuildError) as error:
        reason = str(error)[:300]
    raise ModelBuildError(f"the lock {path} cannot be used: {reason}; restore it, or delete it to {again}")
