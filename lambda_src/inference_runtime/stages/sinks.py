"""Where rows go: to `dynamo_sink` in AWS, and to other stores elsewhere; see `inference_runtime.anywhere`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from inference_runtime.stages.rows import Attribute


class NotWrittenError(Exception):
    """The row cannot be written now."""


class SinkTimeoutError(NotWrittenError):
    """The store did not answer, so that the rest of the batch would take as long."""


class NeverWrittenError(Exception):
    """The store refuses this row, whenever it is written."""


class ResultSink(Protocol):
    """A store of rows, which threads share."""

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Write a row unless the store has a newer one, or has this one already; see `rows.put_request`.

        Parameters
        ----------
        attributes
            The row, as `rows.row` makes it.

        Returns
        -------
        bool
            Whether the row was written.

        Raises
        ------
        NotWrittenError
            The row cannot be written now.
        NeverWrittenError
            The store refuses the row.
        """
