"""Show the reference apps to tools that nobody here wrote: `python -m verify [GROUP ...]`, or `make verify`.

Every finding must be explained in ``constructs/cdk_inference/common/explanations.toml``, and every explanation must
match a finding. The exit code is 0 if both hold, and 69 if the judges cannot be installed because no index is reached.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from verify.judges import GROUPS, Verdict, read_explanations, unexplained
from verify.references import references
from verify.tools import Tools, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verify.judges import Judge
    from verify.references import Reference

_WORKERS = 2
_WIDTH = 140  # columns of the table where there is no terminal to ask


def main() -> int:
    """Ask the judges, print a table and what they found, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m verify", description=__doc__)
    parser.add_argument("group", nargs="*", help=f"groups of judges: {', '.join(GROUPS)} (default: all)")
    groups = parser.parse_args().group or list(GROUPS)
    for group in groups:
        if group not in GROUPS:
            parser.error(f"group must be one of {', '.join(GROUPS)}, got '{group}'")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    judges = [(group, judge) for group in groups for judge in importlib.import_module(GROUPS[group]).JUDGES]
    began = time.monotonic()
    shown = references()
    console.print(f"synthesized {len(shown)} reference apps in {time.monotonic() - began:.0f} s")
    try:
        with ThreadPoolExecutor(_WORKERS) as pool:
            verdicts = list(pool.map(lambda each: _ask(each[1], shown), judges))
    except UnavailableError as error:
        console.print(f"nothing was judged: {error}", soft_wrap=True, markup=False)
        return os.EX_UNAVAILABLE
    return _report(console, judges, verdicts)


def _ask(judge: Judge, shown: Sequence[Reference]) -> tuple[Verdict, float]:
    began = time.monotonic()
    return judge.examine(shown, Tools()), time.monotonic() - began


def _report(console: Console, judges: Sequence[tuple[str, Judge]], verdicts: Sequence[tuple[Verdict, float]]) -> int:
    explanations = read_explanations()
    findings = [finding for verdict, _ in verdicts for finding in verdict.findings]
    missing, stale = unexplained(findings, explanations, {tool for _, judge in judges for tool in judge.tools})
    table = Table("group", "judge", "questions", "findings", "unexplained", "seconds")
    silent = []
    for (group, judge), (verdict, seconds) in zip(judges, verdicts, strict=True):
        left = sum(1 for finding in set(verdict.findings) if finding in missing)
        cells = (str(verdict.checked), str(len(set(verdict.findings))), str(left), f"{seconds:.0f}")
        table.add_row(group, judge.name, *cells)
        if not verdict.checked:
            silent.append(judge.name)
    console.print(table)
    for finding in missing:
        console.print(
            f"unexplained: {finding.tool} {finding.rule}: {finding.app}/{finding.subject} {finding.kind}\n"
            f"  {finding.message}",
            markup=False,
        )
    for line in stale:
        console.print(f"explains nothing any more: {line}", markup=False)
    for name in silent:
        console.print(f"{name} asked nothing")
    return 1 if missing or stale or silent else 0


if __name__ == "__main__":
    sys.exit(main())
