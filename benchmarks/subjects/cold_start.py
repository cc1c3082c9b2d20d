"""From the start of a process to its first prediction: our function against plain ONNX Runtime and PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.fresh import Fresh, check_same
from benchmarks.harness import Figure, Sample, alternate
from benchmarks.prepare import MODELS, eager_command, engine_command, plain_command, prepare

if TYPE_CHECKING:
    from benchmarks.harness import Settings

ROUNDS = 15
EAGER_ROUNDS = 5
LARGE = 40_000_000
"""Bytes of a float32 model for which the goal is the higher one."""


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    names = ["digits"] if settings.quick else list(MODELS)
    figures = []
    for key, model in prepare(names, settings.work).items():
        ours = Fresh(engine_command(model), model.function.environment())
        plain, eager = Fresh(plain_command(model, settings.work)), Fresh(eager_command(model))
        found = alternate({"ours": ours, "plain": plain}, settings.rounds(ROUNDS))
        eager_rounds, warm_up = (1, 0) if settings.quick else (EAGER_ROUNDS, 1)
        slow = alternate({"ours": ours, "eager": eager}, eager_rounds, warm_up=warm_up)
        # Int8 against float32.
        cosine = check_same(ours, plain, least=0.9)
        check_same(plain, eager, least=0.999)
        size = model.float32.stat().st_size
        facts = {"model": model.name, "float32_mb": round(size / 1e6, 2), "cosine": round(cosine, 4)}
        what = f"{model.name}: fresh process to first prediction"
        figures += [
            Figure(
                f"cold_start/{key}",
                what,
                "plain `pip install onnxruntime`, float32, defaults",
                "ms",
                Sample.of(found["ours"]["milliseconds"]),
                Sample.of(found["plain"]["milliseconds"]),
                "faster",
                4.0 if size >= LARGE else 3.0 if key == "digits" else None,
                facts,
            ),
            Figure(
                f"cold_start_eager/{key}",
                what,
                "PyTorch, eager",
                "ms",
                Sample.of(slow["ours"]["milliseconds"]),
                Sample.of(slow["eager"]["milliseconds"]),
                "faster",
                18.0,
                {"model": model.name},
            ),
        ]
    return figures
