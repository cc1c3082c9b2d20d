"""The whole function: fresh process, event in, answer out, against one that is written without a library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.fresh import Fresh, check_same
from benchmarks.harness import Figure, Sample, alternate
from benchmarks.prepare import MODELS, prepare, straightforward

if TYPE_CHECKING:
    from benchmarks.harness import Settings

ROUNDS = 15


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    names = ["digits"] if settings.quick else list(MODELS)
    figures = []
    for key, model in prepare(names, settings.work).items():
        other = straightforward(model, settings.work)
        ours = Fresh(model.function.command(model.event), model.function.environment())
        theirs = Fresh(other.command(model.event), other.environment())
        found = alternate({"ours": ours, "theirs": theirs}, settings.rounds(ROUNDS))
        check_same(ours, theirs, least=0.9999)
        loaded = set(ours.answer["modules"])
        figures.append(
            Figure(
                f"handler/{key}",
                f"{model.name}: whole handler, fresh process, event in, answer out, tensors inline",
                "a straightforward handler: boto3, numpy and onnxruntime with the same int8 model",
                "ms",
                Sample.of(found["ours"]["milliseconds"]),
                Sample.of(found["theirs"]["milliseconds"]),
                "faster",
                3.0,
                {"model": model.name, "ours_imports": sorted(loaded & {"boto3", "botocore", "numpy", "onnxruntime"})},
            )
        )
    return figures
