"""Entry point: ``python -m verify.models`` builds public models, compares what their users see, and prints a table.

The models come in packages of the index, are built for this machine with the policy ``Auto``, and are run on data that
calibrated nothing. The exit code is 1 if a model agrees with float32 less than its bound says, or is slower or less
often right. It is also 1 if a model is not refused as expected. It is 69 if the packages cannot be downloaded.

With ``--markdown``, nothing comes from the cache, and the lines of docs/model/public-models.md are written anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cdk_inference.common.cache import cache_root
from verify.models import page
from verify.models.judge import judge, names, to_json
from verify.models.packages import UnavailableError, installed

_UNAVAILABLE, _OTHER = 69, 1
_ROOT = Path(__file__).parents[2]
_WIDTH = 200
_JUDGED = "judged: "
_WRITING = threading.Lock()


def main() -> int:
    """Print the table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m verify.models", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *names()], help="only these; by default all")
    parser.add_argument(
        "--markdown", action="store_true", help="build anew, and write into docs/model/public-models.md"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.one:  # in a separate process: cases have modules of the same names
        print(_JUDGED + to_json(judge(arguments.one, cache_root() / "verify-models" / "recipes")))  # noqa: T201
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    try:
        packages = installed()
    except UnavailableError as error:
        console.print(f"the public models were not verified: {error}", soft_wrap=True, markup=False)
        return _UNAVAILABLE
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(partial(_judged, packages, anew=arguments.markdown), arguments.cases or names()))
    show(rows, console)
    return 0 if all(row["good"] for row in rows) else _OTHER


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title="public models, compared with float32 by what their users see")
    for heading in ("case", "model", "precision", "MB", "speed", "agreement", "of", "right", "build"):
        table.add_column(heading, justify="right" if heading in ("speed", "build") else "left", overflow="fold")
    for row in rows:
        if row["failure"]:
            result = f"[red]{escape(row['failure'])}"
        elif row["refusal"]:
            result = f"[green]refused[/green]: {escape(row['refusal'])}"
        else:
            colour = "green" if row["good"] else "red"
            result = f"[{colour}]{row['agreement']:.3f}[/{colour}] (at least {row['bound']:g})"
        before, after = row["sizes"]
        table.add_row(
            *(row["name"], row["model"], row["precision"]),
            f"{before:.2f} -> {after:.2f}" if after else "",
            f"{row['speedup']:.2f}" if row["speedup"] else "",
            *(result, row["seen"]),
            "{:.3f} -> {:.3f}".format(*row["right"]) if row["right"] else "",
            f"{row['build_seconds']:.0f} s, {row['build_peak_mb']:.0f} MB",
        )
    console.print(table)


def _judged(packages: Path, name: str, *, anew: bool) -> dict[str, Any]:
    """Judge a case in a separate process, and write its line into the page if it is built anew."""
    if not anew:
        return _row(packages, name, cache_root())
    with tempfile.TemporaryDirectory() as cache:
        row = _row(packages, name, Path(cache))
    if row["good"]:
        with _WRITING:
            page.write([row])
    return row


def _row(packages: Path, name: str, cache: Path) -> dict[str, Any]:
    paths = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "verify.models", "--one", name],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": paths, "CDK_INFERENCE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_JUDGED):
            found: dict[str, Any] = json.loads(line.removeprefix(_JUDGED))
            return found
    raise RuntimeError(f"{name} ended with code {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
