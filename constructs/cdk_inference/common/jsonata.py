"""JSONata as it goes into definitions of state machines."""

from __future__ import annotations

import json

EMPTY = "{% '' %}"
"""An empty string to assign: AWS's own validator takes a bare one for a missing value."""

# Lambda's cause is JSON, of which the message is what a reader of a dead letter wants. Backslashes by number: JSONata
# looks for the end of a regular expression without regard to escaped brackets.
SAID = (
    r"""($cause := $states.input.Cause & ''; """
    r"""$said := $match($cause, /"errorMessage": ?"((?:[^"\x5c]|\x5c.)*)/)[0].groups[0]; """
    r"""$substring($said ? $replace($said, /\x5c(.)/, "$1") : $cause ? $cause : "no cause is known", 0, 1000))"""
)
"""The message of the error that a state caught, which is its input: never empty, and at most 1,000 characters."""


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
