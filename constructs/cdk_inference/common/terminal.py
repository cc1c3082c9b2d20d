"""Lines for the person who runs a command, on standard error: standard output belongs to the result."""

from __future__ import annotations

import sys

PASSES = "CDK_INFERENCE_PASSES"
"""The environment variable that, without a terminal, asks for a line when a pass begins, and during downloads."""


def say(line: str) -> None:
    """Write a line to standard error at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
