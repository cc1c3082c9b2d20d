"""An event for each decision about a release, whoever decided: it follows from the write to the table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cdk_inference.common.metadata import metrics_name
from cdk_inference.events.buses import check_same_bus
from cdk_inference.events.patterns import DECISION
from cdk_inference.events.table_events import TableEvents
from cdk_inference.storage.tables import enable_stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import aws_events as events

    from cdk_inference.releases.control import ReleaseControl

_ID = "Decisions"
_IMAGE = "$.dynamodb.NewImage"
_HISTORY = f"<{_IMAGE}.history.L>"


def decision_events(
    control: ReleaseControl, record: Mapping[str, str], event_bus: events.IEventBus | None
) -> TableEvents:
    """Return the events for decisions about a release, which the first caller creates.

    The state machine and the command line decide by a write each. So nobody can decide without an event, and neither
    needs the right to put one.

    Parameters
    ----------
    control
        The release.
    record
        The keys of the record that decisions are written to.
    event_bus
        Where events go. Default: where they go already, or the default bus.

    Raises
    ------
    PropError
        The events go to another bus.
    """
    made: TableEvents | None = control.node.try_find_child(_ID)  # type: ignore[assignment]
    if made is not None:
        check_same_bus(made.event_bus, event_bus)
        return made
    stream = enable_stream(control.table)
    return TableEvents(
        control,
        _ID,
        stream=stream,
        table_arn=control.table.table_arn,
        encryption_key=control.encryption_key,
        about=f"puts the decisions of {control.node.path} on an event bus",
        role="release-events",
        detail_type=DECISION,
        input_template=_detail(control),
        only={"dynamodb": {"Keys": {name: {"S": [value]} for name, value in record.items()}}},
        event_bus=event_bus,
    )


def _detail(control: ReleaseControl) -> str:
    """Return the template of an event's detail: pipes take lists without quotes, and all else in quotes."""
    numbers = ("step", "share", "compared")
    detail = {
        "event_id": "<$.eventID>",
        "pipeline": metrics_name(control),
        "release": control.release_id,
        "stable": control.arms.stable.model.version,
        "candidate": control.arms.candidate.model.version,
        "status": f"<{_IMAGE}.status.S>",
        **{name: f"<{_IMAGE}.{name}.N>" for name in numbers},
        "history": _HISTORY,
    }
    return json.dumps(detail).replace(json.dumps(_HISTORY), _HISTORY)
