"""Measures a model's explanations while the app is synthesized, once for all that they depend on, and judges them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cdk_inference.bundling.bundle import runtime_source
from cdk_inference.common.cache import hash_data, hash_file, hash_folder
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files import weights
from cdk_inference.model.measurement import measure_once
from cdk_inference.model.project import locked, readable_errors
from cdk_inference.model.recipe.structure import structure
from cdk_inference.model.records.faithfulness import (
    EXPLANATIONS_FILE,
    Faithfulness,
    faithfulness_json,
    read_faithfulness,
)
from cdk_inference.model.records.fingerprint import hash_building

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cdk_inference.model.project import Project
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Manifest

_MODE = "cdk_inference.explanations.measuring:measure"
_RESULT = "faithfulness.json"


class ExplainedModel(Protocol):
    """A model whose answers are explained, such as a `ModelArtifact`."""

    @property
    def path(self) -> Path | None:
        """The folder of the built model; None if it was not built."""

    @property
    def project(self) -> Project | None:
        """The recipe with its surroundings; None for a model of a registry, or one that was not built."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of its build."""

    @property
    def asset_hash(self) -> str:
        """SHA-256 over names and bytes of its files."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs."""


def measured(
    model: ExplainedModel,
    settings: Mapping[str, Any],
    *,
    channel_axis: int | None,
    common: Sequence[int],
    zero: bool,
) -> Faithfulness | None:
    """Return the figures of a model's explanations; None if it was not built.

    Parameters
    ----------
    model
        The model, as it is deployed.
    settings
        The settings of the functions, without the values that hide parts.
    channel_axis, common
        As those of `ItemParts`.
    zero
        Whether zeros hide parts, and not means.

    Raises
    ------
    ModelBuildError
        The explanations are not more faithful than random ones, or there is nothing to measure them on.
    """
    if model.path is None:
        return None
    if model.project is None:
        raise ModelBuildError(
            f"explain must measure its model on the data of a recipe, got {model.manifest.name!r} from a registry; "
            "make it with recipe=, or leave explain out"
        )
    # How long functions may take changes nothing that is measured.
    timeless = {name: value for name, value in settings.items() if name != "seconds"}
    asked = {"settings": timeless, "channel_axis": channel_axis, "common": [*common], "zero": zero}
    figures = _figures(model, model.project, model.path, asked)
    if figures.bound <= 0:
        raise ModelBuildError(
            f"explanations of model '{model.manifest.name}' must be more faithful than random ones, got a deletion of "
            f"{figures.deletion:g} and an insertion of {figures.insertion:g} by {figures.method} over "
            f"{figures.samples} samples, where random orders have {figures.random:g}; {_way_out(figures)}"
        )
    _show(figures, model.project, model.path.parent)
    return figures


def _show(figures: Faithfulness, project: Project, entry: Path) -> None:
    """Put the figures on the model's card, unless they are there."""
    file = entry / EXPLANATIONS_FILE
    if figures in read_faithfulness(file):
        return
    from cdk_inference.model.card import render  # noqa: PLC0415 - needs Jinja and NumPy

    with readable_errors(project), locked(project):
        same = (figures.method, figures.baseline)
        others = [each for each in read_faithfulness(file) if (each.method, each.baseline) != same]
        write_whole(file, faithfulness_json([*others, figures]))
        render(entry)


def _way_out(figures: Faithfulness) -> str:
    other = {"occlusion": "method='rise'", "rise": "method='occlusion'"}.get(figures.method)
    baseline = "baseline='zero'" if figures.baseline == "mean" else "baseline='mean'"
    tried = [each for each in (other, baseline if figures.fill else None) if each is not None]
    return f"try {' or '.join(tried)}, or leave explain out" if tried else "leave explain out"


def _figures(model: ExplainedModel, project: Project, path: Path, asked: Mapping[str, Any]) -> Faithfulness:
    manifest = model.manifest
    more = {
        **asked,
        "model": str(weights.entry(path)),
        # As the deployed functions do; see `Manifest.batch_dependent`.
        "singly": manifest.batch_dependent and isinstance(manifest.inputs[0].shape[0], str),
        "runtime": str(runtime_source().parent),
    }
    key = _key(model, project, asked)
    found = measure_once(project, key, more, mode=_MODE, result=_RESULT, doing="measuring its explanations")
    return structure(found, Faithfulness)


def _key(model: ExplainedModel, project: Project, asked: Mapping[str, Any]) -> str:
    depends = [
        project.fingerprint,
        project.tools,
        platform.python_version_tuple()[:2],
        hash_building(),
        [hash_folder(runtime_source() / name) for name in ("explanations", "engine", "tensors")],
        hash_file(Path(__file__).with_name("measuring.py")),
        model.asset_hash,
        asked,
    ]
    return f"explanations-{project.recipe.name}-{hash_data(depends)[:32]}"
