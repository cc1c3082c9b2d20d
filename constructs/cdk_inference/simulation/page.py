"""Writes a simulation for people: a page that needs no other file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cdk_inference.common.escaping import clean
from cdk_inference.common.figures import figure, percent
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import PropError
from cdk_inference.simulation.charts import ChartPair, Line, chart
from cdk_inference.simulation.results import Series, seconds
from cdk_inference.simulation.sweep import DAY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.simulation.results import SimulationResult
    from cdk_inference.simulation.sweep import Sweep

_SHOWN_QUOTAS = 4


def render(sweep: Sweep, file: Path) -> None:
    """Write the page. It loads nothing, and runs no script.

    Parameters
    ----------
    sweep
        The results.
    file
        The file. An older one is replaced.

    Raises
    ------
    PropError
        If the file cannot be written.
    """
    try:
        write_whole(file, html(sweep))
    except OSError as error:
        raise PropError(
            f"output must be a file that can be written, got '{file}': {error.strerror or error}; name another"
        ) from error


def html(sweep: Sweep) -> str:
    """Return the page."""
    fastest = sweep.results[-1]
    return _HTML.get_template("simulation.html.j2").render(
        sweep=sweep, fastest=fastest, curves=_curves(sweep), over_time=_over_time(fastest)
    )


def _curves(sweep: Sweep) -> list[ChartPair]:
    def line(name: str, of: Callable[[SimulationResult], float | None]) -> Line:
        values = [(result.arrivals.per_second * DAY, of(result)) for result in sweep.results]
        return Line(name, tuple((rate, value) for rate, value in values if value is not None))

    fullest = [use.quota for use in sweep.results[-1].quotas[:_SHOWN_QUOTAS]]
    drawn = [
        ("Latency from upload to row", [line("p50", _p50), line("p95", _p95)], seconds, None),
        ("Environments", [line("environments", lambda result: result.peak_environments)], _whole, None),
        ("USD for a million objects", [line("costs", _usd_per_million)], _usd, None),
        (
            "Share of the fullest quotas",
            [line(quota.title, _share_of(quota.field)) for quota in fullest],
            percent,
            1.0,
        ),
    ]
    return [
        chart(title, lines, label="objects a day", show=show, limit=limit, across=_large)
        for title, lines, show, limit in drawn
        if all(each.points for each in lines) and lines
    ]


def _over_time(result: SimulationResult) -> list[ChartPair]:
    drawn = {
        "Messages that wait in the queue": result.backlog,
        "Environments": result.environments,
        "GPUs": result.gpus if result.peak_gpus else None,
    }
    return [
        chart(
            title,
            [Line(title, tuple(_minutes(series)))],
            label="minutes",
            show=_whole if max(series.values) >= 4 else figure,  # noqa: PLR2004 - axes with fewer have halves
            logarithmic=False,
            across=lambda minutes: f"{minutes:,.3g}",
        )
        for title, series in drawn.items()
        if series is not None
    ]


def _minutes(series: Series) -> list[tuple[float, float]]:
    return [(number * series.interval / 60, value) for number, value in enumerate(series.values)]


def _p50(result: SimulationResult) -> float | None:
    return result.latency.p50


def _p95(result: SimulationResult) -> float | None:
    return result.latency.p95


def _usd_per_million(result: SimulationResult) -> float | None:
    return None if result.estimate is None else result.estimate.usd_per_million


def _share_of(field: str) -> Callable[[SimulationResult], float | None]:
    return lambda result: next((use.share for use in result.quotas if use.quota.field == field), 0.0)


def _large(value: float) -> str:
    """Return a number as ``"100 M"``."""
    for divisor, unit in ((1e6, " M"), (1e3, " k")):
        if value >= divisor:
            return f"{value / divisor:,.3g}{unit}"
    return f"{value:,.3g}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _usd(value: float) -> str:
    return f"{value:,.2f}"


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _shown(value: object) -> object:
    """Clean a text that is about to be shown."""
    return clean(value) if type(value) is str else value


_HTML = Environment(
    loader=ChoiceLoader([PackageLoader("cdk_inference.simulation"), PackageLoader("cdk_inference.review")]),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_HTML.filters.update(pixel=_pixel, figure=figure, seconds=seconds, percent=percent, whole=_whole, usd=_usd)
