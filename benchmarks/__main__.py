"""Run the benchmarks: `make bench`, or ``python -m benchmarks --only cold_start --only warm``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Settings, machine
from cdk_inference.model.cache import cache_root

SUBJECTS = (
    "cold_start",
    "handler",
    "memory",
    "package_size",
    "warm",
    "imports",
    "synth",
    "options",
    "batching",
)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="subject to measure; may be repeated")
    parser.add_argument("--quick", action="store_true", help="the tiny model, two rounds: only tries everything out")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, instead of the docs")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="folder that saves work")
    parser.add_argument("--publish", type=Path, help="measure nothing, write this JSON file's figures into the docs")
    arguments = parser.parse_args()
    if arguments.publish:
        report.publish(report.read(arguments.publish))
        return
    if not arguments.output and (arguments.quick or arguments.only):
        parser.error("the docs get complete figures only: give --output for a part of them")
    settings = Settings(arguments.work.absolute(), quick=arguments.quick)
    settings.work.mkdir(parents=True, exist_ok=True)
    data = measure(arguments.only or SUBJECTS, settings)
    if arguments.output:
        arguments.output.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        report.publish(data)
    sys.stdout.write(report.table(data))


def measure(subjects: tuple[str, ...] | list[str], settings: Settings) -> dict[str, Any]:
    """Return all figures of some subjects, with the machine and the time that each subject took."""
    figures: list[dict[str, Any]] = []
    seconds = {}
    for subject in subjects:
        sys.stderr.write(f"{subject} …\n")
        began = time.monotonic()
        found = importlib.import_module(f"benchmarks.{subject}").measure(settings)
        seconds[subject] = round(time.monotonic() - began)
        for figure in found:
            sys.stderr.write(f"  {figure.name}: {report.ratio(figure.to_data())}\n")
        figures += [figure.to_data() for figure in found]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "quick": settings.quick,
        "machine": machine(),
        "seconds": seconds,
        "figures": figures,
    }


if __name__ == "__main__":
    main()
