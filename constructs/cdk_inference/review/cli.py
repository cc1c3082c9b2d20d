"""The command line: ``python -m cdk_inference.review``.

Exit codes: 0 the review is done, 1 something failed, 2 wrong usage, 3 it found what ``--fail-on`` names.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from cdk_inference.common.escaping import clean
from cdk_inference.common.figures import figure
from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.errors import InferenceError
from cdk_inference.review.against import read_against
from cdk_inference.review.assembly import read_assembly
from cdk_inference.review.findings import Level
from cdk_inference.review.report import MARKS, render
from cdk_inference.review.review import Review, review

app = typer.Typer(
    help="Show what a synthesized app will be, what changed, and what to look at first.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_FOUND = 3
_SUFFIXES = (".html", ".md")

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class FailOn(Enum):
    """The least finding that makes the exit code 3."""

    NEVER = "never"
    WARNING = "warning"
    DANGER = "danger"


AssemblyFolder = Annotated[Path, typer.Argument(metavar="[CDK.OUT]", help="The cloud assembly that cdk synth wrote.")]
Against = Annotated[
    str | None,
    typer.Option(help="A cloud assembly, a git ref, or 'deployed': the deployed stacks of the same names."),
]
Output = Annotated[list[Path] | None, typer.Option(help="A file to write, .html or .md; may be given twice.")]
Items = Annotated[float, typer.Option(min=0, help="Objects in a month, for the costs.")]
Fail = Annotated[FailOn, typer.Option(help="Exit with 3 if there is such a finding.")]
AppFolder = Annotated[Path, typer.Option(help="The folder of the app, which a git ref is synthesized in.")]


@app.command()
def run(
    assembly: AssemblyFolder = Path("cdk.out"),
    against: Against = None,
    output: Output = None,
    items_per_month: Items = 1_000_000,
    fail_on: Fail = FailOn.NEVER,
    app_folder: AppFolder = Path(),
) -> None:
    """Show what a synthesized app will be, what changed, and what to look at first."""
    files = output or []
    for file in files:
        if file.suffix not in _SUFFIXES:
            raise typer.BadParameter(f"output must end with {' or '.join(_SUFFIXES)}, got '{file}'")
    after = read_assembly(assembly)
    before = read_against(against, after, folder=app_folder) if against is not None else None
    found = review(after, before, Traffic(items_per_month=items_per_month), Prices())
    for file in files:
        render(found, file)
        _err.print(f"wrote {file} ({figure(file.stat().st_size / 1e3)} kB)", markup=False)
    _show(found)
    levels = {FailOn.WARNING: Level.WARNING, FailOn.DANGER: Level.DANGER}
    if fail_on in levels and any(finding.level >= levels[fail_on] for finding in found.findings):
        raise typer.Exit(_FOUND)


def _show(found: Review) -> None:
    if found.before is None:
        _out.print(f"{found.after.name}, compared with nothing; pass --against to see what changed", markup=False)
    else:
        _out.print(f"{found.after.name} against {found.before.name}: {found.summary}", markup=False)
    for finding in found.findings:
        _out.print(f"{MARKS[finding.level]} {clean(finding.text)}", markup=False)


def main() -> None:
    """Run the command line: one line for our own errors, and for those of AWS."""
    try:
        app()
    except (InferenceError, BotoCoreError, ClientError) as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILED)
