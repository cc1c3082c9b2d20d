"""Write the prices, and what the examples print, into the page on costs: `python docs/scripts/outputs.py`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

from cdk_inference.costs import SOURCES, Prices

PAGE = Path(__file__).parents[1] / "operate" / "costs.md"

_EXAMPLE = re.compile(r"(^```python\n(.*?)^```\n\n```text\n).*?(^```$)", re.DOTALL | re.MULTILINE)
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


def _row(name: str, price: float) -> str:
    source = SOURCES[name]
    return f"| `{name}` | {price:g} | [{urlsplit(source.url).hostname}]({source.url}), {source.date} |\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
