"""Tells by the marks on resources which pipeline they belong to: a trigger may be outside of the one that it feeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Owners:
    """The pipelines of some resources.

    Parameters
    ----------
    facts
        The facts on the resources, with those that take the messages of triggers.
    """

    def __init__(self, facts: Iterable[Mapping[str, Any]]) -> None:
        self._feeds = {str(each["trigger"]): str(each["feeds"]) for each in facts if "feeds" in each}

    def way(self, facts: Mapping[str, Any]) -> list[str]:
        """Return the paths from a resource to its pipeline, which is the last one; empty if it belongs to none.

        The way of the inner trigger of an `S3ItemsTrigger` leads through that trigger.
        """
        path = self._feeds.get(str(facts.get("trigger"))) or facts.get("pipeline")
        found: list[str] = []
        while path and path not in found:
            found.append(str(path))
            path = self._feeds.get(str(path))
        return found

    def pipeline(self, facts: Mapping[str, Any]) -> str | None:
        """Return the path of the pipeline; None if the resource belongs to none."""
        return next(reversed(self.way(facts)), None)

    def triggers(self) -> dict[str, str]:
        """Return the path of the pipeline that each trigger feeds, by the trigger's path."""
        return {trigger: self.way({"trigger": trigger})[-1] for trigger in self._feeds}
