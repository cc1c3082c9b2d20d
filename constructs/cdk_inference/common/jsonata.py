"""JSONata as it goes into definitions of state machines."""

from __future__ import annotations

import json

EMPTY = "{% '' %}"
"""An empty string to assign: AWS's own validator takes a bare one for a missing value."""


def one_line(expression: str) -> str:
    """Return an expression without line breaks, which validators of definitions do not recognize as JSONata.

    Parameters
    ----------
    expression
        The expression; none of its texts goes over a line.
    """
    return " ".join(line.strip() for line in expression.split("\n"))  # other line breaks may be in texts


def string_literal(value: str) -> str:
    """Return a string as JSONata spells it."""
    return json.dumps(value, ensure_ascii=False)
