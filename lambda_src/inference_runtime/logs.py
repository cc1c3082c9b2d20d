"""Puts the model's version on every log line."""

from __future__ import annotations

import logging


class AddFields:
    """A filter of `logging` that gives every record these attributes, which Lambda's JSON format writes as members."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through."""
        record.__dict__.update(self._fields)
        return True


def add_to_log_lines(**fields: str) -> None:
    """Add fields to whatever is logged through the handlers that Lambda has set up."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(AddFields(**fields))
