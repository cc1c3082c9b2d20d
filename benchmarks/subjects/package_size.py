"""Measures the files that are unpacked before a function can start, without the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Figure, Sample
from benchmarks.prepare import content_size, pip_installed, prepare

if TYPE_CHECKING:
    from benchmarks.harness import Settings


def measure(settings: Settings) -> list[Figure]:
    """Return the figure."""
    (model,) = prepare(["digits"], settings.work).values()
    ours = content_size(model.function.root, without="model")
    theirs = content_size(pip_installed(settings.work, "onnxruntime"))
    return [
        Figure(
            "package_size",
            "unpacked inference function without the model",
            "pip-installed onnxruntime with its dependencies",
            "MB",
            Sample.of([ours / 1e6]),
            Sample.of([theirs / 1e6]),
            "smaller",
            4.5,
        )
    ]
