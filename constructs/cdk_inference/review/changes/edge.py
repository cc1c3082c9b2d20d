"""Compares what the devices of two apps send and cost, as it was expected when each app was synthesized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.common import figures
from cdk_inference.common.json_values import mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cdk_inference.review.assembly import Assembly

_ROLES = ("edge", "edge-package")  # the component, and the parameters of devices without Greengrass
_UNKNOWN, _MISSING = "not known", "\N{EN DASH}"


@dataclass(frozen=True)
class EdgeFigure:
    """A line of the comparison.

    Parameters
    ----------
    name
        The name of the number.
    before, after
        The texts; a dash where the component is missing.
    more
        By which share it rises, such as 0.25; None if that cannot be told.
    told
        Whether a rise is worth a look; other lines follow from these, or say what it would be without devices.
    """

    name: str
    before: str
    after: str
    more: float | None
    told: bool


@dataclass(frozen=True)
class EdgeChange:
    """The items that the devices of a component send, and the costs.

    Parameters
    ----------
    pipeline
        The path of the pipeline that they ask.
    component
        The name of the component.
    traffic
        The traffic that is expected, in words; ``""`` if none was stated.
    before, after
        The facts of both apps; empty where the component is missing.
    """

    pipeline: str
    component: str
    traffic: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def figures(self) -> list[EdgeFigure]:
        """The lines of the comparison; only the share of items that are sent if no traffic was stated."""
        lines = [self._figure("items that go to the cloud", "escalation", figures.percent, told=True)]
        both = [mapping(each.get("expected")) for each in (self.before, self.after)]
        if any("uplink_share" in each for each in both):
            lines.append(self._expected("max_uplink that a device needs", "uplink_share", figures.percent, told=True))
        if any(both):
            lines += [
                self._expected("items a device sends in a day", "items_sent_per_day", figures.figure),
                self._expected("bytes a device sends in a day", "bytes_sent_per_day", figures.size),
                self._expected("USD a month all in the cloud", "cloud_usd_per_month", _usd),
                self._expected("USD a month with these devices", "usd_per_month", _usd, told=True),
            ]
        return lines

    @property
    def services(self) -> list[tuple[str, float, float]]:
        """The costs of a month with the devices by what they are for, before and after."""
        old, new = (mapping(mapping(each.get("expected")).get("usd_by")) for each in (self.before, self.after))
        return [(name, _number(old.get(name)) or 0.0, _number(new.get(name)) or 0.0) for name in {**new, **old}]

    def _expected(self, name: str, fact: str, text: Callable[[float], str], *, told: bool = False) -> EdgeFigure:
        old, new = (mapping(each.get("expected")) for each in (self.before, self.after))
        return self._compared(name, (old.get(fact), new.get(fact)), text, told=told)

    def _figure(self, name: str, fact: str, text: Callable[[float], str], *, told: bool) -> EdgeFigure:
        return self._compared(name, (self.before.get(fact), self.after.get(fact)), text, told=told)

    def _compared(
        self, name: str, values: tuple[object, object], text: Callable[[float], str], *, told: bool
    ) -> EdgeFigure:
        old, new = map(_number, values)
        before, after = (
            _MISSING if not facts else _UNKNOWN if value is None else text(value)
            for facts, value in ((self.before, old), (self.after, new))
        )
        return EdgeFigure(name, before, after, None if old is None or new is None or not old else new / old - 1, told)


def compare(before: Assembly | None, after: Assembly) -> list[EdgeChange]:
    """Return what the devices of each component of the second app send and cost."""
    old, new = _components(before), _components(after)
    return [
        EdgeChange(str(facts.get("pipeline", "")), name, _traffic(facts), old.get(name, {}), facts)
        for name, facts in new.items()
    ]


def _components(assembly: Assembly | None) -> dict[str, Mapping[str, Any]]:
    templates = assembly.templates.values() if assembly is not None else ()
    return {
        str(resource.facts.get("component")): resource.facts
        for template in templates
        for resource in template.resources.values()
        if resource.role in _ROLES
    }


def _traffic(facts: Mapping[str, Any]) -> str:
    said = mapping(facts.get("expected"))
    devices, items, size = (_number(said.get(name)) for name in ("devices", "items_per_day", "item_bytes"))
    if devices is None or items is None or size is None:
        return ""
    number = f"{devices:,.0f} device{'' if devices == 1 else 's'}"
    return f"{number} with {items:,.0f} items of {figures.size(size)} a day each"


def _usd(value: float) -> str:
    return f"{value:,.2f}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
