"""The most memory that a process had after its first prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.fresh import Fresh
from benchmarks.harness import Figure, Sample, alternate
from benchmarks.prepare import MODELS, engine_command, plain_command, prepare

if TYPE_CHECKING:
    from benchmarks.harness import Settings

ROUNDS = 5


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    names = ["digits"] if settings.quick else list(MODELS)
    figures = []
    for key, model in prepare(names, settings.work).items():
        ours = Fresh(engine_command(model), model.function.environment())
        plain = Fresh(plain_command(model, settings.work))
        found = alternate({"ours": ours, "plain": plain}, settings.rounds(ROUNDS))
        figures.append(
            Figure(
                f"memory/{key}",
                f"{model.name}: peak memory (VmHWM) of a process with one prediction",
                "plain onnxruntime, float32",
                "MB",
                Sample.of(found["ours"]["peak_mb"]),
                Sample.of(found["plain"]["peak_mb"]),
                "lower",
                2.5 if key == "minilm" else None,
                {"model": model.name},
            )
        )
    return figures
