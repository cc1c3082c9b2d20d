"""Measures options for a faster warm synth of every CDK app in Python: the reference app with each, and without."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks.harness import Figure, Sample, alternate
from benchmarks.subjects import synth

if TYPE_CHECKING:
    from benchmarks.harness import Settings

ROUNDS = 5
OPTIONS = {
    "optimized": "with `python -O`",
    "no_collection": "with `gc.disable()` at its top",
    "node_compile_cache": "with `NODE_COMPILE_CACHE`",
    "no_validation": "with `CDK_VALIDATION=false`",
}
RIVAL = "the same without"


def measure(settings: Settings) -> list[Figure]:
    """Return a figure for each option."""
    source = synth.REFERENCE.read_text("utf-8").replace("Path(__file__).parent", f"Path({str(synth.ROOT)!r})")
    without_collection = settings.work / "without_collection.py"
    without_collection.write_text(
        source.replace("import aws_cdk", "import gc\n\ngc.disable()\nimport aws_cdk"), "utf-8"
    )
    out = settings.work
    contenders = {
        "plain": synth.timed(synth.REFERENCE, out / "plain.out"),
        "optimized": synth.timed(synth.REFERENCE, out / "optimized.out", python=f"{sys.executable} -O"),
        "no_collection": synth.timed(without_collection, out / "no_collection.out"),
        "node_compile_cache": synth.timed(
            synth.REFERENCE, out / "node_compile_cache.out", NODE_COMPILE_CACHE=str(out / "node-cache")
        ),
        "no_validation": synth.timed(synth.REFERENCE, out / "no_validation.out", CDK_VALIDATION="false"),
    }
    found = alternate(contenders, settings.rounds(ROUNDS))
    return [
        Figure(
            f"synth_options/{name}",
            f"warm `cdk synth` of the reference app {said}",
            RIVAL,
            "s",
            Sample.of(found[name]["seconds"]),
            Sample.of(found["plain"]["seconds"]),
            "growth",
        )
        for name, said in OPTIONS.items()
    ]
