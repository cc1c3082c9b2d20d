"""An event for each row of a results table: the table's stream, and a pipe that puts it on a bus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.events.buses import check_same_bus
from cdk_inference.events.patterns import RESULT
from cdk_inference.events.table_events import TableEvents

if TYPE_CHECKING:
    from aws_cdk import aws_events as events
    from constructs import Construct

    from cdk_inference.storage.results import IResultsTable

_ID = "Events"

ATTRIBUTES = (
    "id",
    "object",
    "version",
    "bucket",
    "key",
    "event_time",
    "status",
    "route",
    "variant",
    "model_version",
    "inference",
    "recorded_at",
    "answer_sha256",
)
"""The attributes of a row that its event has: neither the prediction nor the reason, which may quote the object."""

# In quotes, a path that leads nowhere is an empty string, and the event stays valid JSON.
_DETAIL = {"event_id": "<$.eventID>"} | {name: f"<$.dynamodb.NewImage.{name}.S>" for name in ATTRIBUTES}


@check_props
class ResultEvents(TableEvents):
    """Puts an event on a bus for each row that is written to a results table; made by `pipeline.on_result`.

    Table stream → EventBridge pipe → event bus. The stream is turned on, and keeps new rows for 24 hours, under the
    table's key. An event has the row's keys, its status, route, variant and model, and neither prediction nor reason.
    A replay that writes nothing makes no event, and nor does a row that expires.

    The pipe delivers at least once: an event that comes again has the same ``event_id``. If the bus does not take an
    event in 185 tries, what the dead-letter queue gets names its place in the stream.

    Parameters
    ----------
    results
        The table. An imported one must have its `table_stream_arn`.
    event_bus
        Where events go. Default: the default bus of the account and Region.

    Attributes
    ----------
    event_bus
        As given.
    pipe, dead_letter_queue
        The parts.

    Raises
    ------
    PropError
        The stream of an imported table is not known, or the bus is in another account or Region.
    """

    def __init__(
        self, scope: Construct, id: str, *, results: IResultsTable, event_bus: events.IEventBus | None = None
    ) -> None:
        super().__init__(
            scope,
            id,
            stream=results.enable_stream(),
            table_arn=results.table.table_arn,
            encryption_key=results.encryption_key,
            about=f"puts the rows of {results.node.path} on an event bus",
            role="result-events",
            detail_type=RESULT,
            input_template=json.dumps(_DETAIL),
            event_bus=event_bus,
        )

    @classmethod
    def of(cls, results: IResultsTable, event_bus: events.IEventBus | None = None) -> ResultEvents:
        """Return the events of a table, whichever of its pipelines asks first.

        Parameters
        ----------
        results
            The table.
        event_bus
            Where events go. Default: where they go already, or the default bus.

        Raises
        ------
        PropError
            The events of the table go to another bus.
        """
        made: ResultEvents | None = results.node.try_find_child(_ID)  # type: ignore[assignment]
        if made is None:
            return cls(results, _ID, results=results, event_bus=event_bus)
        check_same_bus(made.event_bus, event_bus)
        return made
