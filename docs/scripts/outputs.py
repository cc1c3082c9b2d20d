"""Write figures, and what examples print, into the pages on costs and scale: `python docs/scripts/outputs.py`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cdk_inference.common.figures import figure
from cdk_inference.costs import SOURCES, CpuOption, Prices
from cdk_inference.simulation import DOCUMENTED, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER = Path(__file__).parents[1] / "operate"
COSTS, SCALE = _FOLDER / "costs.md", _FOLDER / "scale.md"

_EXAMPLE = re.compile(r"(^```python\n(.*?)^```\n\n```text\n).*?(^```$)", re.DOTALL | re.MULTILINE)
_SCALE = re.compile(r"(<!-- scale -->\n\|.*\n\|.*\n)(?:\|.*\n)*")
_QUOTAS = re.compile(r"(<!-- quotas -->\n\|.*\n\|.*\n)(?:\|.*\n)*")
_RATES = (1, 10, 100, 1000, 100e6 / 86_400)
_PRICES = re.compile(r"(<!-- prices -->\n\|.*\n\|.*\n)(?:\|.*\n)*")


def printed(code: str) -> str:
    """Return what an example prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})  # noqa: S102 (our own page)
    return out.getvalue()


def written(page: str) -> str:
    """Return the page with its outputs and prices as they are now."""
    rows = [_row(name, price) for name, price in Prices().by_name().items()]
    page = _PRICES.sub(lambda match: match[1] + "".join(rows), page)
    return _EXAMPLE.sub(lambda match: match[1] + printed(match[2]) + match[3], page)


def scaled(page: str) -> str:
    """Return the page on scale with its examples, quotas and rates as they are now."""
    rows = scale_rows(_RATES)
    page = _SCALE.sub(lambda match: match[1] + "".join(rows), page)
    page = _QUOTAS.sub(lambda match: match[1] + "".join(quota_rows()), page)
    return _EXAMPLE.sub(lambda match: match[1] + printed(match[2]) + match[3], page)


def scale_rows(rates: Sequence[float]) -> list[str]:
    """Return a row of the reference app for each rate, which take seconds."""
    rows = []
    swept = sweep(CpuOption("lite0", milliseconds=2.796), rates)
    for result in swept.results:
        limit, costs, latency = swept.limit_of(result), result.estimate, result.latency
        cells = [
            figure(result.arrivals.per_second),
            *(f"{figure(each)} s" for each in (latency.p50, latency.p95)),
            f"{result.peak_environments:,.0f}",
            f"{costs.usd_per_month:,.0f}",
            f"{costs.usd_per_million:,.2f}",
            limit.breaks_first.quota.title,
            figure(limit.breaks_at),
        ]
        rows.append(f"| {' | '.join(cells)} |\n")
    return rows


def quota_rows() -> list[str]:
    """Return a row for each quota that a simulation knows."""
    return [
        f"| `{each.field}` | [{each.service}]({each.page}): {each.name} | {each.default:,.0f} {each.unit} | "
        f"{'yes' if each.adjustable else 'no'} | {'yes' if each.listed else 'no'} |\n"
        for each in DOCUMENTED.values()
    ]


def _row(name: str, price: float) -> str:
    source = SOURCES[name]
    return f"| `{name}` | {price:g} | [{urlsplit(source.url).hostname}]({source.url}), {source.date} |\n"


if __name__ == "__main__":
    COSTS.write_text(written(COSTS.read_text(encoding="utf-8")), encoding="utf-8")
    SCALE.write_text(scaled(SCALE.read_text(encoding="utf-8")), encoding="utf-8")
