"""The manifest of a built artifact. The same build gives the same manifest, byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from cdk_inference.model.recipe.structure import structure, unstructure
from cdk_inference.model.recipe.targets import Target
from cdk_inference.model.recipe.tensors import TensorSpec

SCHEMA_VERSION = 4

ASSEMBLY_METADATA = "cdk-inference:model"
"""Type of the metadata entry that tells readers of a cloud assembly how a model was built; it is not deployed."""

_LATER = ("baseline", "graphs", "sound_seconds")

MEMORY_BATCH = 8
"""Items at once for which `Measured.batch_peak_mb` is measured."""


@dataclass(frozen=True)
class Metric:
    """The quality that the gate compared.

    Parameters
    ----------
    name
        The evaluation's metric.
    baseline
        Value for the float model.
    quantized
        Value for the deployed model.
    gate
        Worst value that passes.
    samples
        How many samples counted.
    """

    name: str
    baseline: float
    quantized: float
    gate: float
    samples: int


@dataclass(frozen=True)
class Measured:
    """The measurements of the machine that searched; copied from the lock, hence the same wherever it is built.

    Parameters
    ----------
    cpu
        Model name of the processor.
    float32_ms, deployed_ms
        Median latency of one sample on one thread, in milliseconds.
    speedup
        float32 divided by deployed, from alternated runs.
    float32_peak_mb, deployed_peak_mb
        Peak memory of a process that loads the model and runs one sample, in millions of bytes.
    batch_peak_mb
        The same for the deployed model and eight samples at once; one, if its batch is fixed.
    threads_ms
        Median latency of one sample of the deployed model by number of threads, ``"1"`` to at most ``"6"``: as many as
        the machine has cores.
    """

    cpu: str
    float32_ms: float
    deployed_ms: float
    speedup: float
    float32_peak_mb: float
    deployed_peak_mb: float
    batch_peak_mb: float = 0.0
    threads_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Distribution:
    """Values of one output over the evaluation data, as the deployed model gives them: what drift is told by.

    Parameters
    ----------
    mean, std
        The mean and deviation of all values, rounded to three digits.
    quantiles
        At 0, 5, 25, 50, 75, 95 and 100 percent.
    top1
        Share of the samples by class with the highest value; empty unless the metric is one of classification.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]
    top1: dict[str, float]


@dataclass(frozen=True)
class Observation:
    """A number of each evaluation sample, counted by bins: what production is compared with, to notice drift.

    Parameters
    ----------
    source
        ``"input"`` or ``"output"``.
    tensor
        The name of that input or output.
    kind
        Which number of it, such as ``"confidence"`` or ``"brightness"``; see `inference_runtime.monitoring`.
    edges
        Where each bin but the first begins, ascending.
    counts
        Samples in each bin. The samples that placed the edges are not counted.
    """

    source: Literal["input", "output"]
    tensor: str
    kind: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class GraphFacts:
    """One graph of several.

    Parameters
    ----------
    architecture, precision, size_bytes
        As those of the `Manifest`.
    """

    architecture: str
    precision: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Facts about a built model; nothing in here depends on the clock or a folder.

    Parameters
    ----------
    name
        The recipe's name.
    model_version
        First 12 hexadecimal digits of the SHA-256 of ``model.onnx``, followed by ``model.weights`` if there is one. Of
        several graphs, ``driver.json`` comes first, and then the files of each.
    inputs, outputs
        The tensors as declared and as checked on the built model.
    architecture
        ``"convolutional"``, ``"transformer"``, ``"recurrent"``, ``"mixed"`` or ``"other"``.
    precision
        Kind of the precision that ships, such as ``"static_int8"``; ``"per_graph"`` if several graphs have their own.
    target
        The target of the build: ``"arm64"``, ``"x86_64"``, or ``"any"`` if it has no 8-bit products.
    exact_on
        CPUs on which it gives the same answers, so that `metric`, `parity` and `distributions` hold there. It is
        ``("arm64", "x86_64")`` if 16-bit sums of its 8-bit products cannot saturate on any CPU. Otherwise, it is
        ``("arm64", "x86_64 with VNNI")``.
    opset
        ONNX operator set version.
    size_bytes, baseline_size_bytes
        Size of ``model.onnx`` with ``model.weights``, and of the same graph in float32, in one file.
    metric
        The gate, which passed; None in a placeholder.
    parity
        Mean cosine similarity of outputs: ``exported`` against the model as it came, ``quantized`` against
        the exported graph, to three decimals.
    measured
        Latency and memory; None if the precision was pinned, since measurements differ from build to build and only a
        lock makes them the same.
    distributions
        By output, how its values are distributed.
    batch_dependent
        Whether an item's result depends, a little, on the other items of its batch. Dynamic quantization takes the
        scale of the activations from all of them. Deployed functions then run such a model on one item at a time,
        unless its batch is fixed.
    provenance
        Licence, origin, hash of the recipe and versions of the tools.
    baseline
        Counts of the evaluation data and of the answers to them, to notice drift. Empty if a lock of an older version
        has none.
    graphs
        By name; empty if there is a single one.
    sound_seconds
        Seconds of sound in the sample whose latency was measured; 0 if the evaluation gives no `sample_rate`.
    """

    name: str
    model_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    architecture: str
    precision: str
    target: Target
    exact_on: tuple[str, ...]
    opset: int
    size_bytes: int
    baseline_size_bytes: int
    metric: Metric | None
    parity: dict[str, float]
    measured: Measured | None
    distributions: dict[str, Distribution]
    batch_dependent: bool
    provenance: dict[str, str]
    baseline: tuple[Observation, ...] = ()
    graphs: dict[str, GraphFacts] = field(default_factory=dict)
    sound_seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Serialize with sorted keys and a final newline."""
        return json.dumps(without_empty(unstructure(self)), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a manifest of this schema version, with what is wrong in it.
        """
        data = json.loads(text)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"manifest must have schema version {SCHEMA_VERSION}, got {version!r}")
        return structure(data, cls)


def without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what came later and is not there, so that locks and artifacts from before stay the same."""
    return {name: value for name, value in data.items() if name not in _LATER or value}
