"""Writes a review for people: a page that needs no other file, or Markdown for a pull request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cdk_inference.common.escaping import Markdown, clean, clean_lines, escape_markdown, fence
from cdk_inference.common.whole_files import write_whole
from cdk_inference.drawings.column import draw_column
from cdk_inference.drawings.layout import Drawing, draw, mermaid
from cdk_inference.review.access.simulator import MISSING
from cdk_inference.review.changes.models import alike
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.findings import Level, at_risk

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.drawings.graph import Graph
    from cdk_inference.review.changes.access import AccessChange
    from cdk_inference.review.review import Review

MARKS = {Level.DANGER: "danger:", Level.WARNING: "warning:", Level.NOTE: "note:"}
"""The beginnings of lines without colours."""

VERDICTS = {
    Level.DANGER: "look before you deploy",
    Level.WARNING: "worth a look",
    Level.NOTE: "nothing dangerous found",
}

_LONGEST_COMMENT = 65_000  # GitHub takes 65,536 characters
_WIDE, _NARROW = 1000, 350  # pixels of the page, and of a phone's
_LONGEST_LINE = 300  # characters of a line of what the CLI says, such as a definition
_FORMS = (  # of a comment, until one is short enough: rows of a table, texts of the CLI, drawings
    (None, True, True),
    (30, False, True),
    (30, False, False),
    (5, False, False),
)
_LONGEST_DRAWING, _MOST_ARROWS = 50_000, 500  # GitHub's Mermaid shows an error instead of a larger one
_CUT = "\n\nThe rest is in the page of this review.\n"


@dataclass(frozen=True)
class Picture:
    """A graph, drawn for a screen and for a phone."""

    graph: Graph
    wide: Drawing
    narrow: Drawing


def render(review: Review, file: Path) -> None:
    """Write a review: a page if the file ends with ``.html``, Markdown otherwise.

    The page loads nothing, and runs no script. Texts of the app stay texts, whatever is in them.

    Parameters
    ----------
    review
        The review.
    file
        The file. An older one is replaced.

    Raises
    ------
    ReviewError
        If the file cannot be written.
    """
    text = html(review) if file.suffix == ".html" else markdown(review)
    try:
        write_whole(file, text)
    except OSError as error:
        raise ReviewError(f"the review {file} cannot be written: {error.strerror or error}") from error


def html(review: Review) -> str:
    """Return the page."""
    return _HTML.get_template("review.html.j2").render(
        review=review,
        marks=MARKS,
        verdict=VERDICTS[review.level],
        pipelines=[_picture(graph) for graph in review.pipelines],
        workflows=[_picture(graph) for graph in review.workflows],
        at_risk=at_risk,
        alike=alike,
        missing=MISSING,
    )


def markdown(review: Review) -> str:
    """Return the Markdown, short enough for a comment on GitHub."""
    template = _MARKDOWN.get_template("review.md.j2")
    drawn = [mermaid(graph) for graph in review.pipelines if len(graph.edges) <= _MOST_ARROWS]
    drawings = [Markdown(each) for each in drawn if len(each) <= _LONGEST_DRAWING]
    text = ""
    for most, texts, pictures in _FORMS:
        text = template.render(
            review=review,
            verdict=VERDICTS[review.level],
            drawings=drawings if pictures else [],
            at_risk=at_risk,
            alike=alike,
            missing=MISSING,
            most=most,
            texts=texts,
        )
        if len(text) <= _LONGEST_COMMENT:
            return text
    # The last form has no block that would have to be closed.
    return text[: _LONGEST_COMMENT - len(_CUT)].rpartition("\n")[0] + _CUT


def _picture(graph: Graph) -> Picture:
    down, right = draw(graph, downwards=True), draw(graph, downwards=False)
    # A picture that fits is shown as it is; otherwise, the narrower one is made smaller.
    wide = right if right.width <= max(_WIDE, down.width) else down
    return Picture(graph, wide, down if down.width <= _NARROW else draw_column(graph))


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.0%}".replace("+0%", "the same").replace("-0%", "the same")


def _usd(value: float) -> str:
    return f"{value:,.2f}"


def _verdict(change: AccessChange) -> str:
    if change.lost:
        return "no longer allowed" if change.before else "needed, and denied"
    return f"also allowed for {' and '.join(change.beyond)}"


def _pre(text: str) -> Markup:
    return escape(clean_lines(text))


def _fence(text: str, language: str) -> Markdown:
    lines = clean_lines(text).split("\n")
    cut = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines]
    return fence("\n".join(cut), language)


def _shown(value: object) -> object:
    """Clean a text that is about to be shown."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_HTML = Environment(
    loader=PackageLoader("cdk_inference.review"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_HTML.filters.update(pixel=_pixel, percent=_percent, usd=_usd, pre=_pre, verdict=_verdict)

# In Markdown every expression is escaped unless it says that it is Markdown.
_MARKDOWN = Environment(
    loader=PackageLoader("cdk_inference.review"),
    autoescape=False,  # noqa: S701 - that is for HTML
    finalize=escape_markdown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_MARKDOWN.filters.update(percent=_percent, usd=_usd, fence=_fence, verdict=_verdict)
