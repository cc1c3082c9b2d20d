"""The model card: what was built and how it was proven, for the people who decide whether it may serve.

Importing this loads neither torch nor CDK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cdk_inference.common.escaping import escape_markdown, fence, link_markdown, split_urls
from cdk_inference.common.whole_files import write_whole
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.card.entry import read
from cdk_inference.model.card.page import page

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Card", "render"]

_UNIT = re.compile("(?<=[\\d≥≤<>]) (?=[\\d%\N{MULTIPLICATION SIGN}]|(?:MB|kB|ms|s)\\b)")


@dataclass(frozen=True)
class Card:
    """The two files of a card.

    Parameters
    ----------
    html
        A page that needs no other file and no network.
    markdown
        The same without pictures, for pull requests.
    """

    html: Path
    markdown: Path


def render(entry: Path) -> Card:
    """Write ``card.html`` and ``card.md`` next to a finished build; the same build gives the same bytes.

    Parameters
    ----------
    entry
        Folder of a finished build, with ``artifact/manifest.json`` and ``report.json``. ``evaluation.npz`` and
        ``samples.npz`` add the comparison and the sample predictions.

    Raises
    ------
    ModelBuildError
        If a file is missing or damaged, or the card cannot be written. No half-written card is left.
    """
    content = page(read(entry))
    html = _HTML.get_template("card.html.j2").render(page=content)
    markdown = _MARKDOWN.get_template("card.md.j2").render(page=content)
    card = Card(entry / "card.html", entry / "card.md")
    _write(card.html, html)
    _write(card.markdown, markdown)
    return card


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file, text)
    except OSError as error:
        raise ModelBuildError(f"the model card {file} cannot be written: {error.strerror or error}") from error


def _link(text: str) -> Markup:
    """Escape text, and make links of the addresses in it."""
    anchor = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    return Markup("").join(anchor.format(part) if is_url else escape(part) for part, is_url in split_urls(text))


def _units(text: str) -> str:
    """Keep numbers and their units on one line."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


def _pixel(value: float) -> str:
    """Write a place in a drawing, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


_HTML = Environment(
    loader=PackageLoader("cdk_inference.model.card"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_HTML.filters.update(link=_link, units=_units, pixel=_pixel)

# In Markdown every expression is escaped unless it says that it is Markdown.
_MARKDOWN = Environment(
    loader=PackageLoader("cdk_inference.model.card"),
    autoescape=False,  # noqa: S701 - that is for HTML
    finalize=escape_markdown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_MARKDOWN.filters.update(link=link_markdown, fence=fence)
