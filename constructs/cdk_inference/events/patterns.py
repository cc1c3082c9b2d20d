"""The patterns of this library's events, for rules of any stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from aws_cdk import aws_events as events

from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = "cdk-inference"
"""The source of all events of this library."""

RESULT = "Inference Result"
"""The detail type of the event for a row."""

DECISION = "Release Decision"
"""The detail type of the event for a decision about a release."""

VERDICT = "Drift Verdict"
"""The detail type of the event for a verdict of a drift monitor."""

RETRAINING = "Retraining Outcome"
"""The detail type of the event for what became of a retraining."""

Status = Literal["SUCCEEDED", "REJECTED", "FAILED"]
_STATUSES = ("SUCCEEDED", "REJECTED", "FAILED")


@check_arguments
def result_pattern(
    *,
    statuses: Sequence[Status] = (),
    routes: Sequence[str] = (),
    buckets: Sequence[str] = (),
    prefix: str = "",
    tables: Sequence[str] = (),
) -> events.EventPattern:
    """Return the pattern of the events for rows, such as for a rule of another stack.

    Parameters
    ----------
    statuses
        ``"SUCCEEDED"``, ``"REJECTED"`` and ``"FAILED"``. Default: all.
    routes
        Names of routes that an item took. Default: all.
    buckets
        Names of the buckets of the objects. Default: all.
    prefix
        Only objects whose keys start with it. Default: all.
    tables
        ARNs of the tables that have the rows. Default: all.

    Raises
    ------
    PropError
        A status does not exist.
    """
    for status in statuses:
        if status not in _STATUSES:
            raise PropError(f"statuses must be of {', '.join(_STATUSES)}, got '{status}'")
    given = {"status": statuses, "route": routes, "bucket": buckets, "key": [{"prefix": prefix}] if prefix else ()}
    detail: dict[str, Any] = {name: list(wanted) for name, wanted in given.items() if wanted}
    return events.EventPattern(
        source=[SOURCE], detail_type=[RESULT], resources=list(tables) or None, detail=detail or None
    )
