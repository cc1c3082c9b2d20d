"""The time whose rows an export writes, and the folder of its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, in UTC.

    Attributes
    ----------
    start, end
        The first moment, and the one after the last.
    """

    start: datetime
    end: datetime

    @classmethod
    def before(cls, time: datetime, hours: int) -> Window:
        """Return the last window of so many hours that was over at a time.

        Windows follow one another from midnight on, so `hours` divides a day.
        """
        time = time.astimezone(UTC)
        midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
        end = midnight + timedelta(hours=time.hour // hours * hours)
        return cls(end - timedelta(hours=hours), end)

    @property
    def folder(self) -> str:
        """The folder of its files, as Hive names partitions: the hour is the first one of the window."""
        return f"day={self.start:%Y-%m-%d}/hour={self.start:%H}/"

    @property
    def first(self) -> str:
        """The first `recorded_at` of a row in the window."""
        return self.start.isoformat(timespec="milliseconds")

    @property
    def last(self) -> str:
        """The last `recorded_at` of a row in the window: rows have whole milliseconds."""
        return (self.end - timedelta(milliseconds=1)).isoformat(timespec="milliseconds")
