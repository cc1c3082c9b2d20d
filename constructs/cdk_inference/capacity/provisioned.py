"""Environments that Lambda keeps ready, as many as the clock or the load ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from zoneinfo import ZoneInfo

from aws_cdk import TimeZone, Token, Tokenization
from aws_cdk import aws_lambda as lambda_

from cdk_inference.capacity.strategy import CapacityStrategy, live_alias, reserve_at_least
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.props.deprecations import renamed_attribute, renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least, check_between
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import Construct

_LEAST_UTILIZATION, _MOST_UTILIZATION = 0.1, 0.9
_DAY = "(?:MON|TUE|WED|THU|FRI|SAT|SUN)"
_WEEK_DAY = re.compile(rf"{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*")


@check_props
@renamed_props(environments="min_capacity", max_environments="max_capacity", week_days="week_day")
@dataclass(frozen=True, kw_only=True)
class CapacitySchedule:
    """From when on how many environments are provisioned; until another schedule says something else.

    Parameters
    ----------
    min_capacity
        How many environments; with a target utilization: how many at least. 0 for none.
    hour, minute
        The time of day.
    week_day
        Such as ``"MON-FRI"`` or ``"SAT,SUN"``. Default: every day.
    time_zone
        The time zone by its name in the IANA database, such as ``"Europe/Berlin"``; daylight saving time counts.
        Default: UTC.
    max_capacity
        How many at most from then on, with a target utilization. Default: what `Capacity.provisioned` says.

    Raises
    ------
    PropError
        There is no such time, day or time zone, or the numbers contradict each other.
    """

    min_capacity: int
    hour: int
    minute: int = 0
    week_day: str | None = None
    time_zone: str = "Etc/UTC"
    max_capacity: int | None = None

    environments = renamed_attribute("CapacitySchedule.environments", "min_capacity")
    max_environments = renamed_attribute("CapacitySchedule.max_environments", "max_capacity")
    week_days = renamed_attribute("CapacitySchedule.week_days", "week_day")

    def __post_init__(self) -> None:
        check_at_least(0, **{"min_capacity of a schedule": self.min_capacity})
        check_between(0, 23, "", **{"hour of a schedule": self.hour})
        check_between(0, 59, "", **{"minute of a schedule": self.minute})
        days = self.week_day
        if days is not None and not Token.is_unresolved(days) and not _WEEK_DAY.fullmatch(days):
            raise PropError(f"week_day of a schedule must be like 'MON-FRI' or 'SAT,SUN', got '{days}'")
        _check_time_zone(self.time_zone)
        if self.max_capacity is not None:
            check_at_least(1, **{"max_capacity of a schedule": self.max_capacity})
            _ordered("of a schedule", self.min_capacity, self.max_capacity)

    @property
    def expression(self) -> str:
        """The cron expression that AWS takes."""
        days = "* * ?" if self.week_day is None else f"? * {self.week_day}"
        minute, hour = (
            Tokenization.stringify_number(value) if Token.is_unresolved(value) else str(int(value))
            for value in (self.minute, self.hour)
        )
        return f"cron({minute} {hour} {days} *)"


@dataclass(frozen=True)
class Provisioned(CapacityStrategy):
    """See `Capacity.provisioned`."""

    billed_by_duration: ClassVar[bool] = False

    min_capacity: int
    schedules: Sequence[CapacitySchedule] = ()
    target_utilization: float | None = None
    max_capacity: int | None = None

    def __post_init__(self) -> None:
        target, most = self.target_utilization, self.max_capacity
        if not Token.is_unresolved(self.min_capacity) and self.min_capacity < 1:
            least = "; that many environments are there while nothing happens, too" if target is not None else ""
            raise PropError(f"min_capacity must be at least 1, got {self.min_capacity}{least}")
        scheduled = [each.max_capacity for each in self.schedules if each.max_capacity is not None]
        if target is None:
            if most is not None or scheduled:
                named = most if most is not None else scheduled[0]
                raise PropError(
                    f"max_capacity needs target_utilization, got max_capacity={named} without it; set it (for example "
                    "0.7) or remove max_capacity"
                )
            return
        check_between(_LEAST_UTILIZATION, _MOST_UTILIZATION, "of the environments", target_utilization=target)
        if most is None:
            raise PropError(
                f"target_utilization needs max_capacity, got none; set max_capacity to at least {self.min_capacity}"
            )
        check_at_least(1, max_capacity=most)
        _ordered("", self.min_capacity, most)
        for each in self.schedules:
            if each.max_capacity is None:
                _ordered("of a schedule", each.min_capacity, most)

    @property
    def highest_capacity(self) -> int | None:
        """How many environments there may be; ``None`` if that is known at deployment only."""
        numbers = [
            self.min_capacity,
            self.max_capacity,
            *(each.min_capacity for each in self.schedules),
            *(each.max_capacity for each in self.schedules),
        ]
        known = [number for number in numbers if number is not None]
        return None if any(map(Token.is_unresolved, known)) else max(known)

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse to reserve less than is provisioned, as Lambda does."""
        reserve_at_least(self.highest_capacity, reserved, "provisioned", "provision fewer")

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return an alias: Lambda moves it when the new version's environments are ready, and the old ones serve on."""
        alias = live_alias(
            scope,
            function,
            # The local target makes environments as they are needed, and scales nothing.
            provisioned_concurrent_executions=None if on_cpu_only(scope) else self.min_capacity,
        )
        if (self.schedules or self.target_utilization is not None) and not on_cpu_only(scope):
            self._scale(alias)
        return alias

    def _scale(self, alias: lambda_.Alias) -> None:
        from aws_cdk import aws_applicationautoscaling as scaling  # noqa: PLC0415 # few need it, and all would wait

        most = self.highest_capacity
        if most is None:  # each schedule sets its own
            most = self.max_capacity if self.max_capacity is not None else self.min_capacity
        attribute = alias.add_auto_scaling(min_capacity=self.min_capacity, max_capacity=most)
        if self.target_utilization is not None:
            attribute.scale_on_utilization(utilization_target=self.target_utilization)
        for number, each in enumerate(self.schedules):
            upper = each.max_capacity if each.max_capacity is not None else self.max_capacity
            attribute.scale_on_schedule(
                f"Schedule{number}",
                schedule=scaling.Schedule.expression(each.expression),
                min_capacity=each.min_capacity,
                # Without a target, both bounds are the same.
                max_capacity=upper if upper is not None else each.min_capacity,
                time_zone=TimeZone.of(each.time_zone),
            )


def _ordered(what: str, least: int, most: int) -> None:
    if not Token.is_unresolved(least) and not Token.is_unresolved(most) and least > most:
        raise PropError(
            " ".join(filter(None, ["min_capacity", what, f"must be at most max_capacity, {most}, got {least}; "]))
            + "raise max_capacity"
        )


def _check_time_zone(name: str) -> None:
    if Token.is_unresolved(name) or _is_time_zone(name) or not _is_time_zone("Europe/Berlin"):  # no database here
        return
    raise PropError(
        f"time_zone of a schedule must be a name of the IANA database, got '{name}'; use one such as 'Europe/Berlin'"
    )


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not there; a folder; no name of a file
        return False
    return True
