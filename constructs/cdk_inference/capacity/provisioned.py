"""Environments that Lambda keeps ready, as many as the clock or the load ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from aws_cdk import TimeZone, Token, Tokenization
from aws_cdk import aws_lambda as lambda_

from cdk_inference.capacity.strategy import CapacityStrategy, live_alias, reserve_at_least
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constructs import Construct

_LEAST_UTILIZATION, _MOST_UTILIZATION = 0.1, 0.9
_DAY = "(?:MON|TUE|WED|THU|FRI|SAT|SUN)"
_WEEK_DAYS = re.compile(rf"{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*")


@check_props
@dataclass(frozen=True, kw_only=True)
class CapacitySchedule:
    """From when on how many environments are provisioned; until another schedule says something else.

    Parameters
    ----------
    environments
        How many; with a target utilization: how many at least. 0 for none.
    hour, minute
        The time of day.
    week_days
        Such as ``"MON-FRI"`` or ``"SAT,SUN"``. Default: every day.
    time_zone
        Whose time, by its name in the IANA database, such as ``"Europe/Berlin"``; daylight saving time counts. Default:
        UTC.
    max_environments
        How many at most from then on, with a target utilization. Default: what `Capacity.provisioned` says.

    Raises
    ------
    PropError
        There is no such time, day or time zone, or the numbers contradict each other.
    """

    environments: int
    hour: int
    minute: int = 0
    week_days: str | None = None
    time_zone: str = "Etc/UTC"
    max_environments: int | None = None

    def __post_init__(self) -> None:
        _at_least("environments of a schedule", self.environments, least=0)
        for name, value, most in (("hour", self.hour, 23), ("minute", self.minute, 59)):
            if not Token.is_unresolved(value) and not 0 <= value <= most:
                raise PropError(f"{name} of a schedule must be 0 to {most}, got {value}")
        days = self.week_days
        if days is not None and not Token.is_unresolved(days) and not _WEEK_DAYS.fullmatch(days):
            raise PropError(f"week_days of a schedule is '{days}'; use the like of 'MON-FRI' or 'SAT,SUN'")
        _check_time_zone(self.time_zone)
        if self.max_environments is not None:
            _at_least("max_environments of a schedule", self.max_environments, least=1)
            _ordered("of a schedule", self.environments, self.max_environments)

    @property
    def expression(self) -> str:
        """The cron expression that AWS takes."""
        days = "* * ?" if self.week_days is None else f"? * {self.week_days}"
        minute, hour = (
            Tokenization.stringify_number(value) if Token.is_unresolved(value) else str(int(value))
            for value in (self.minute, self.hour)
        )
        return f"cron({minute} {hour} {days} *)"


@dataclass(frozen=True)
class Provisioned(CapacityStrategy):
    """See `Capacity.provisioned`."""

    environments: int
    schedules: Sequence[CapacitySchedule] = ()
    target_utilization: float | None = None
    max_environments: int | None = None

    def __post_init__(self) -> None:
        target, most = self.target_utilization, self.max_environments
        if not Token.is_unresolved(self.environments) and self.environments < 1:
            least = "; at least as many are there, also while nothing happens" if target is not None else ""
            raise PropError(f"environments is {self.environments}; provisioned concurrency is at least 1{least}")
        scheduled = [each.max_environments for each in self.schedules if each.max_environments is not None]
        if target is None:
            if most is not None or scheduled:
                named = most if most is not None else scheduled[0]
                raise PropError(
                    f"max_environments is {named}, and nothing goes up to it; pass target_utilization, such as 0.7, or "
                    "leave it out"
                )
            return
        if not Token.is_unresolved(target) and not _LEAST_UTILIZATION <= target <= _MOST_UTILIZATION:
            raise PropError(
                f"target_utilization is {target:g}; it is a share of the environments, "
                f"{_LEAST_UTILIZATION} to {_MOST_UTILIZATION}"
            )
        if most is None:
            raise PropError(
                f"target_utilization is set and max_environments is not; say how many environments there may be, more "
                f"than the {self.environments} that there are at least"
            )
        _at_least("max_environments", most, least=1)
        _ordered("", self.environments, most)
        for each in self.schedules:
            if each.max_environments is None:
                _ordered("of a schedule", each.environments, most)

    @property
    def most_environments(self) -> int | None:
        """How many environments there may be; ``None`` if that is known at deployment only."""
        numbers = [
            self.environments,
            self.max_environments,
            *(each.environments for each in self.schedules),
            *(each.max_environments for each in self.schedules),
        ]
        known = [number for number in numbers if number is not None]
        return None if any(map(Token.is_unresolved, known)) else max(known)

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse to reserve less than is provisioned, as Lambda does."""
        reserve_at_least(self.most_environments, reserved, "provisioned", "provision fewer")

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return an alias: Lambda moves it when the new version's environments are ready, and the old ones serve on."""
        alias = live_alias(
            scope,
            function,
            # The local target makes environments as they are needed, and scales nothing.
            provisioned_concurrent_executions=None if on_cpu_only(scope) else self.environments,
        )
        if (self.schedules or self.target_utilization is not None) and not on_cpu_only(scope):
            self._scale(alias)
        return alias

    def _scale(self, alias: lambda_.Alias) -> None:
        from aws_cdk import aws_applicationautoscaling as scaling  # noqa: PLC0415 # few need it, and all would wait

        most = self.most_environments
        if most is None:  # each schedule sets its own
            most = self.max_environments if self.max_environments is not None else self.environments
        attribute = alias.add_auto_scaling(min_capacity=self.environments, max_capacity=most)
        if self.target_utilization is not None:
            attribute.scale_on_utilization(utilization_target=self.target_utilization)
        for number, each in enumerate(self.schedules):
            upper = each.max_environments if each.max_environments is not None else self.max_environments
            attribute.scale_on_schedule(
                f"Schedule{number}",
                schedule=scaling.Schedule.expression(each.expression),
                min_capacity=each.environments,
                # Without a target nothing is between the two: so many they are.
                max_capacity=upper if upper is not None else each.environments,
                time_zone=TimeZone.of(each.time_zone),
            )


def _at_least(name: str, value: float, *, least: int) -> None:
    if not Token.is_unresolved(value) and value < least:
        raise PropError(f"{name} must be at least {least}, got {value}")


def _ordered(what: str, least: int, most: int) -> None:
    if not Token.is_unresolved(least) and not Token.is_unresolved(most) and least > most:
        raise PropError(
            " ".join(filter(None, ["environments", what, f"is {least}, more than max_environments, {most}; "]))
            + "raise the maximum"
        )


def _check_time_zone(name: str) -> None:
    if Token.is_unresolved(name) or _is_time_zone(name) or not _is_time_zone("Europe/Berlin"):  # no database here
        return
    raise PropError(f"time_zone of a schedule is '{name}'; use a name of the IANA database, such as 'Europe/Berlin'")


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not there; a folder; no name of a file
        return False
    return True
