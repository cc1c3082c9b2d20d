"""The models that a pipeline's functions have: their facts as deployed, and their cards as built on this machine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cdk_inference.common import figures
from cdk_inference.common.cache import cache_root
from cdk_inference.common.json_values import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cdk_inference.local.stacks import Resource

_VERSION = re.compile(r"[0-9a-f]{8,64}")


def models(functions: Iterable[Resource]) -> list[dict[str, Any]]:
    """Return the models of some functions as people read them, each once.

    Parameters
    ----------
    functions
        The functions, with the facts of their models in their metadata.
    """
    found: dict[str, dict[str, Any]] = {}
    for function in functions:
        facts = mapping(function.metadata.get("model"))
        version = str(facts.get("model_version", ""))
        if version and version not in found:
            found[version] = {
                "version": version,
                "name": str(facts.get("name", "")),
                "facts": list(_facts(facts)),
                "card": card(version) is not None,
            }
    return list(found.values())


def card(version: str) -> Path | None:
    """Return the page of a model's card; None if the model was not built on this machine, or is gone from the cache.

    Parameters
    ----------
    version
        The model's version.
    """
    if not _VERSION.fullmatch(version):
        return None
    for manifest in (cache_root() / "models").glob("*/artifact/manifest.json"):
        try:
            known = mapping(json.loads(manifest.read_text("utf-8"))).get("model_version")
        except (OSError, ValueError):
            continue  # a build that is under way, or damaged: the next synth mends it
        page = manifest.parents[1] / "card.html"
        if known == version and page.is_file():
            return page
    return None


def _facts(facts: Any) -> Iterable[tuple[str, str]]:  # noqa: ANN401 - of whatever version of this library
    """Yield names and figures, those that matter most first."""
    yield "Precision", figures.precision_name({"kind": facts.get("precision", "?")})
    size, before = facts.get("size_bytes"), facts.get("baseline_size_bytes")
    if size:
        yield "Size", figures.size(size)
    if size and before:
        yield "float32", f"{figures.size(before)}, {before / size:.1f} times as large"
    metric = mapping(facts.get("metric"))
    if metric:
        name = str(metric["name"])
        quality = figures.quality(name, metric["quantized"])
        gate = figures.quality(name, metric["gate"])
        yield figures.metric_name(name).capitalize(), f"{quality} of {metric['samples']} samples (gate {gate})"
    for kind in ("inputs", "outputs"):
        tensors = facts.get(kind) or ()
        texts = [f"{one['name']} {one['dtype']} [{', '.join(map(str, one['shape']))}]" for one in tensors]
        if texts:
            yield kind.capitalize(), "; ".join(texts)
    provenance = mapping(facts.get("provenance"))
    for name in ("license", "origin"):
        if provenance.get(name):
            yield name.capitalize(), str(provenance[name])
