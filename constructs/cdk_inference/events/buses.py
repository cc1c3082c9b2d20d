"""The bus that events go to, and the rules there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Stack
from aws_cdk import aws_events as events

from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import metrics_name
from cdk_inference.errors import PropError
from cdk_inference.events.patterns import SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct


def bus_of(scope: Construct, event_bus: events.IEventBus | None) -> events.IEventBus:
    """Return the bus that a construct puts events on.

    Parameters
    ----------
    scope
        The construct.
    event_bus
        The bus. Default: the default bus of the account and Region.

    Raises
    ------
    PropError
        The bus is in another account or Region.
    """
    if event_bus is None:
        return events.EventBus.from_event_bus_name(scope, "DefaultBus", "default")
    fix = "use a bus there, and let a rule forward what the other bus is to get"
    check_environment(scope, "event_bus", event_bus, fix=fix)
    return event_bus


def check_same_bus(used: events.IEventBus, event_bus: events.IEventBus | None) -> None:
    """Refuse a second bus for the same events.

    Parameters
    ----------
    used
        Where events go already.
    event_bus
        Where they are to go, if anybody says so.

    Raises
    ------
    PropError
        It is another one.
    """
    resolve = Stack.of(used).resolve  # the same bus may be imported twice
    if event_bus is not None and resolve(event_bus.event_bus_arn) != resolve(used.event_bus_arn):
        raise PropError(
            f"event_bus must be the same for all rules of these events, got {event_bus.node.path} after "
            f"{used.node.path}; let a rule there forward what the other bus is to get"
        )


def rule_about(
    scope: Construct,
    id: str,
    *,
    detail_type: str,
    detail: Mapping[str, Sequence[object]],
    event_bus: events.IEventBus,
    target: events.IRuleTarget | None,
    event_pattern: events.EventPattern | None,
    description: str | None,
    rule_name: str | None,
) -> events.Rule:
    """Return a rule for the events about the pipeline that a construct is part of.

    Parameters
    ----------
    scope, id
        As in every construct.
    detail_type
        The type of the events.
    detail
        Values that members of the detail may have; none stands for any value.
    event_bus
        Where the events are.
    target, event_pattern, description, rule_name
        As those of `InferencePipeline.on_result`.
    """
    rule = events.Rule(
        scope, id, event_bus=event_bus, event_pattern=event_pattern, description=description, rule_name=rule_name
    )
    wanted: dict[str, Any] = {name: list(values) for name, values in detail.items() if values}
    rule.add_event_pattern(
        source=[SOURCE], detail_type=[detail_type], detail={"pipeline": [metrics_name(scope)], **wanted}
    )
    if target is not None:
        rule.add_target(target)
    return rule
