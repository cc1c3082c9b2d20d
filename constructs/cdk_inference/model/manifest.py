"""What a built artifact says about itself. The same build gives the same manifest, byte for byte."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from cdk_inference.model.tensors import TensorSpec

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Metric:
    """The quality that the gate compared.

    Parameters
    ----------
    name
        A metric of `cdk_inference.model.recipe.METRICS`.
    baseline
        Value for the float model.
    quantized
        Value for the deployed model.
    gate
        Lowest value that passes.
    """

    name: str
    baseline: float
    quantized: float
    gate: float


@dataclass(frozen=True)
class Manifest:
    """Facts about a built model; nothing in here depends on the clock, a folder or a timing.

    Parameters
    ----------
    name
        The recipe's name.
    model_version
        First 12 hexadecimal digits of the SHA-256 of ``model.onnx``.
    inputs, outputs
        The tensors as declared and as checked on the built model.
    precision
        ``"static_int8"`` or ``"float32"``.
    opset
        ONNX operator set version.
    size_bytes, baseline_size_bytes
        Size of ``model.onnx``, and of the same graph in float32.
    metric
        The gate, which passed; None in a placeholder.
    parity
        Mean cosine similarity of outputs: ``exported`` against the PyTorch module, ``quantized`` against
        the exported graph, to three decimals.
    provenance
        Licence, origin, hash of the recipe and versions of the tools.
    """

    name: str
    model_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    opset: int
    size_bytes: int
    baseline_size_bytes: int
    metric: Metric | None
    parity: dict[str, float]
    provenance: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Serialize with sorted keys and a final newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a manifest of this schema version.
        """
        data = json.loads(text)
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"manifest has schema version {data.get('schema_version')!r}, expected {SCHEMA_VERSION}")
        for kind in ("inputs", "outputs"):
            data[kind] = tuple(TensorSpec(**spec) for spec in data[kind])
        data["metric"] = Metric(**data["metric"]) if data["metric"] else None
        return cls(**data)
