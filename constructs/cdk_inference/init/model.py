"""Describes the model that a project is written around."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.model.recipe.tensors import TensorSpec

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Pixels:
    """The numbers that images become, by channel: ``(value / 255 - mean) / std``.

    Parameters
    ----------
    mean, std
        A number each for red, green and blue.
    blue_first
        Whether the model takes blue, green and red instead of red, green and blue.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blue_first: bool = False


@dataclass(frozen=True)
class InspectedModel:
    """A model as its file, or its configuration, describes it.

    Parameters
    ----------
    source
        The expression in the recipe that says where the model comes from.
    imports
        Names that the expression needs from ``cdk_inference.model``.
    inputs, outputs
        Its tensors, batch first.
    origin
        A sentence that says where it comes from.
    license
        SPDX identifier of its licence; ``NOASSERTION`` if nothing says so.
    files
        Files that the project gets, by path in the project: an existing file, a text, or bytes.
    templates
        Templates that the project gets, by path in the project.
    values
        More values that the templates need.
    labels
        Names of its classes, if they are known.
    fields
        Names of its features, if they are known.
    probabilities
        Whether its scores sum up to 1 already.
    distances
        Whether the class with the lowest number is the nearest one.
    packages
        Distributions that the factory stands on.
    max_tokens
        Positions that a model of texts has.
    notes
        Facts that a person should know, a sentence each.
    """

    source: str
    imports: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    origin: str
    license: str = "NOASSERTION"
    files: Mapping[str, Path | str | bytes] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    probabilities: bool = False
    distances: bool = False
    packages: tuple[str, ...] = ()
    max_tokens: int = 256
    notes: tuple[str, ...] = ()
