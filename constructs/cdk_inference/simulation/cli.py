"""The command line: ``python -m cdk_inference.simulation``.

Exit codes: 0 the simulation is done, 1 something failed, 2 wrong usage.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cdk_inference.common.escaping import clean
from cdk_inference.common.figures import figure
from cdk_inference.errors import InferenceError
from cdk_inference.simulation.arrivals import Arrivals
from cdk_inference.simulation.assumptions import Assumptions
from cdk_inference.simulation.page import render
from cdk_inference.simulation.pipelines import RecordedPipeline, read_pipeline
from cdk_inference.simulation.quotas import Quota, Quotas
from cdk_inference.simulation.results import seconds
from cdk_inference.simulation.simulator import simulate
from cdk_inference.simulation.sweep import RATES, Sweep, sweep

app = typer.Typer(
    help="Simulate a synthesized pipeline under load, and say what breaks first.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FAILED = 1

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class Curve(Enum):
    """How the rate changes."""

    CONSTANT = "constant"
    BURSTS = "bursts"
    DAY = "day"


AssemblyFolder = Annotated[Path, typer.Argument(metavar="[CDK.OUT]", help="The cloud assembly that cdk synth wrote.")]
Pipeline = Annotated[str | None, typer.Option(help="The path of the pipeline, if there are several.")]
Route = Annotated[str | None, typer.Option(help="The route that all objects take.")]
Rate = Annotated[
    list[float] | None,
    typer.Option(min=0.001, help="Objects a second; may be given several times.", show_default=False),
]
Shape = Annotated[Curve, typer.Option(help="How the rate changes. All but 'constant' take one rate.")]
QuotaValue = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A quota of your account, such as concurrent_executions=5000."),
]
Assumption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A measured figure, such as cold_start_ms=350.")
]
Output = Annotated[Path | None, typer.Option(help="The page to write, an .html file.")]
Seed = Annotated[int, typer.Option(help="Of the source of randomness.")]


@app.command()
def run(
    assembly: AssemblyFolder = Path("cdk.out"),
    pipeline: Pipeline = None,
    route: Route = None,
    rate: Rate = None,
    curve: Shape = Curve.CONSTANT,
    quota: QuotaValue = None,
    assume: Assumption = None,
    output: Output = None,
    seed: Seed = 0,
) -> None:
    """Simulate a synthesized pipeline under load, and say what breaks first."""
    if output is not None and output.suffix != ".html":
        raise typer.BadParameter(f"output must end with .html, got '{output}'")
    rates = rate or list(RATES)
    if curve is not Curve.CONSTANT and len(rates) != 1:
        raise typer.BadParameter(f"rate must be given once with --curve {curve.value}, got {len(rates)} rates")
    found = read_pipeline(assembly, pipeline, route=route)
    warm = {} if found.warm_writes is None else {"table_writes_at_first": found.warm_writes}
    quotas = Quotas(**{**warm, **_values(quota or [], "quota", Quotas)})
    window = {} if found.window is None else {"max_batching_window": found.window}
    assumptions = Assumptions(**{**window, **_values(assume or [], "assume", Assumptions)})
    if curve is Curve.CONSTANT:
        swept = sweep(
            found.option,
            rates,
            name=found.path,
            shape=found.shape,
            quotas=quotas,
            assumptions=assumptions,
            seed=seed,
        )
    else:
        swept = _one(found, _arrivals(curve, rates[0]), quotas, assumptions, seed)
    _show(swept)
    if output is not None:
        render(swept, output)
        _err.print(f"wrote {output} ({figure(output.stat().st_size / 1e3)} kB)", markup=False)


def _one(found: RecordedPipeline, arrivals: Arrivals, quotas: Quotas, assumptions: Assumptions, seed: int) -> Sweep:
    result = simulate(
        found.option, arrivals, shape=found.shape, quotas=quotas, assumptions=assumptions, warm_up=0, seed=seed
    )
    return Sweep(found.path, found.option, (result,), result)


def _arrivals(curve: Curve, per_second: float) -> Arrivals:
    if curve is Curve.DAY:
        return Arrivals(per_second=per_second, seconds=86_400, shape="day")
    return Arrivals(per_second=per_second, seconds=3600, shape="bursts")


def _values(texts: list[str], option: str, of: type[Quotas] | type[Assumptions]) -> dict[str, Any]:
    """Read pairs of name and value, with the types of the fields' defaults.

    Raises
    ------
    BadParameter
        If a text is not such a pair.
    """
    known = {each.name: type(each.default) for each in fields(of)}
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise typer.BadParameter(f"{option} must be one of {', '.join(known)}, got '{name}'")
        kind = known[name]
        try:
            values[name] = value if kind is str else int(value) if kind is int and value.isdigit() else float(value)
        except ValueError:
            raise typer.BadParameter(f"{option} must be {name}= and a number, got '{text}'") from None
    return values


def _show(swept: Sweep) -> None:
    if len(swept.results) == 1:
        [result] = swept.results
        _out.print(clean(swept.name), markup=False)
        _out.print(result.explain(swept.limit_of(result)), markup=False)
        return
    table = Table(box=box.SIMPLE, title=clean(swept.name), title_justify="left", pad_edge=False)
    for name in ("objects a second", "keeps up", "p95", "environments", "USD a million", "first limit", "at about"):
        table.add_column(name, justify="right", min_width=len(name) if " " not in name else None)
    limits: list[Quota] = []
    for result in swept.results:
        limit, costs = swept.limit_of(result), result.estimate
        first = limit.breaks_first
        if first is not None and first.quota not in limits:
            limits.append(first.quota)
        table.add_row(
            figure(result.arrivals.per_second),
            "yes" if result.keeps_up else "no",
            seconds(result.latency.p95),
            f"{result.peak_environments:,.0f}",
            f"{costs.usd_per_million:,.2f}" if costs is not None and costs.usd_per_million is not None else "not known",
            f"({limits.index(first.quota) + 1})" if first is not None else "nothing",
            figure(limit.breaks_at) if limit.breaks_at is not None else "not known",
        )
    _out.print(table)
    for number, quota in enumerate(limits, 1):
        _out.print(f"({number}) {quota.title}", markup=False)
    if swept.limit.breaks_first is not None:
        fastest = swept.results[-1].arrivals.per_second
        _out.print(f"advice: {swept.limit.advice(fastest)}", markup=False)


def main() -> None:
    """Run the command line: one line for our own errors."""
    try:
        app()
    except InferenceError as error:
        _err.print(f"error: {error}", markup=False)
        sys.exit(_FAILED)
