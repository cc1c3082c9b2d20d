"""Renders the templates of a project."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - Python and Markdown, whose strings go through `literal`
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def literal(value: object) -> str:
    """Return a string, a number or a sequence of them as ruff formats it in Python."""
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)  # its escapes are Python's
        if '"' in value and "'" not in value:
            return "'" + quoted[1:-1].replace('\\"', '"') + "'"
        return quoted
    if isinstance(value, tuple | list):
        inner = ", ".join(literal(each) for each in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


_environment.filters["literal"] = literal


def render(template: str, **values: object) -> str:
    """Return the text of a file."""
    return _environment.get_template(template).render(**values)
