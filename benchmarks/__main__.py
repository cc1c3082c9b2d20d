"""Run the benchmarks and write them into the docs: `make bench`, or ``make bench BENCH="warm handler"``.

Without subjects, all of them are measured on this CPU. Those with int8 arithmetic are then measured again without VNNI,
if this machine can hide it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cpu, report
from benchmarks.harness import Settings, machine
from cdk_inference.common.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBJECTS = ("handler", "cold_start", "warm", "memory", "package_size", "batching", "imports", "synth")
INT8 = ("handler", "cold_start", "warm")
"""Subjects whose figures depend on the int8 instructions of the CPU."""

EXTRA = ("options", "s3")
"""Measured only if asked for, and never written into the docs."""


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.publish:
        report.publish(report.read(arguments.publish))
        return
    if unknown := set(arguments.subjects) - {*SUBJECTS, *EXTRA}:
        parser.error(f"subjects must be of {', '.join((*SUBJECTS, *EXTRA))}, got {', '.join(sorted(unknown))}")
    if not arguments.output and (arguments.quick or set(arguments.subjects).intersection(EXTRA)):
        parser.error("--quick, options and s3 are not for the docs; give --output")
    settings = Settings(arguments.work.absolute(), quick=arguments.quick)
    settings.work.mkdir(parents=True, exist_ok=True)
    if arguments.without_vnni:
        _without_vnni(parser, settings)
        _measure(arguments.subjects or INT8, settings, arguments.output)
        return
    _measure(arguments.subjects or SUBJECTS, settings, arguments.output)
    if not arguments.subjects:
        try:
            hidden = cpu.without_vnni()
        except cpu.CannotHideError as error:
            sys.stderr.write(f"nothing was measured without VNNI: {error}\n")
            return
        if hidden:
            _become_without_vnni(hidden)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="SUBJECT",
        help=f"what to measure, of {', '.join(SUBJECTS)} and {', '.join(EXTRA)}; the docs keep the other figures",
    )
    parser.add_argument(
        "--without-vnni",
        action="store_true",
        help=f"measure on this CPU as if it ended at AVX2; default subjects: {', '.join(INT8)}",
    )
    parser.add_argument("--quick", action="store_true", help="the tiny model, one round: only tries everything out")
    parser.add_argument("--output", type=Path, help="JSON file that gets the figures, instead of the docs")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="folder that saves work")
    parser.add_argument("--publish", type=Path, help="measure nothing, write this JSON file's figures into the docs")
    return parser


def _without_vnni(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Return only in a process that sees no VNNI."""
    if cpu.hidden():
        return
    try:
        hidden = cpu.without_vnni()
    except cpu.CannotHideError as error:
        parser.exit(1, f"error: {error}\n")
    if hidden:
        # The CPU with VNNI builds the models, so that both CPUs run the same files.
        from benchmarks.prepare import MODELS, build  # noqa: PLC0415 - nothing else here needs it

        build(["digits"] if settings.quick else MODELS, settings.work)
        _become_without_vnni(hidden)


def _become_without_vnni(hidden: dict[str, str]) -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--without-vnni"]
    command = [sys.executable, "-m", "benchmarks", "--without-vnni", *arguments]
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **hidden})  # noqa: S606 - this program again


def _measure(subjects: Sequence[str], settings: Settings, output: Path | None) -> None:
    """Measure, print, and write after each subject: into a file, or into the docs."""
    run = new_run(settings)
    for subject in subjects:
        measure(subject, settings, run)
        if output is None:
            report.publish(report.merged(report.read(), run))
        else:
            before = report.read(output) if output.is_file() else {"runs": []}
            report.write(report.merged(before, run), output)
    sys.stdout.write(report.tables({"runs": [run]}))


def new_run(settings: Settings) -> dict[str, Any]:
    """Return a run on this machine, without figures yet."""
    return {"quick": settings.quick, "machine": machine(), "subjects": {}, "figures": []}


def measure(subject: str, settings: Settings, run: dict[str, Any]) -> None:
    """Add the figures of a subject to a run, with the date and the time that they took."""
    sys.stderr.write(f"{subject}{', without VNNI' if cpu.hidden() else ''} …\n")
    began = time.monotonic()
    found = importlib.import_module(f"benchmarks.subjects.{subject}").measure(settings)
    seconds = round(time.monotonic() - began)
    for figure in found:
        sys.stderr.write(f"  {figure.name}: {report.ratio(figure.to_data())}\n")
    sys.stderr.write(f"  took {seconds} s\n")
    run["subjects"][subject] = {"date": datetime.now(UTC).date().isoformat(), "seconds": seconds}
    run["figures"] += [{"subject": subject, **figure.to_data()} for figure in found]


if __name__ == "__main__":
    main()
