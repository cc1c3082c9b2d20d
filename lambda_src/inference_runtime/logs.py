"""Puts the model's version on every log line, and writes lines that CloudWatch takes metrics from."""

from __future__ import annotations

import json
import logging
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

NAMESPACE = "cdk-inference"


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


def print_metric(said: Mapping[str, Any], name: str, value: float | None, *, dimensions: Sequence[str]) -> None:
    """Write a line to the log, in CloudWatch's embedded metric format if the metric has a value.

    Powertools does the same, but the functions that write a line now and then do without it.

    Parameters
    ----------
    said
        The members of the line; those of the dimensions are strings.
    name, value
        The metric. Without a value it has no data, which is another thing than 0.
    dimensions
        The names of its dimensions.
    """
    members = dict(said)
    if value is not None:
        members[name] = value
        metric = {"Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": [{"Name": name, "Unit": "None"}]}
        members["_aws"] = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [metric]}
    print(json.dumps(members))  # noqa: T201 - one line of the log
