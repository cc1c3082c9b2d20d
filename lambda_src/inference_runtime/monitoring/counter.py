"""Counts what was observed of the objects of a window, in one item of a table for each window and model.

A metric for each bin would cost 0.30 USD a month, and there are a hundred. CloudWatch also gives no exact counts of an
interval back while data may still arrive. One atomic update for each batch is exact, and costs one write unit.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.environment import required
from inference_runtime.monitoring.observations import Observed, bins_of, observed_in
from inference_runtime.monitoring.table import EXPIRY, PARTITION_KEY, SORT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.tensors.tensor import Array


KEPT_SECONDS = 35 * 24 * 3600
"""Counts are kept as long as backups may be."""

_log = logging.getLogger(__name__)


class Bins(NamedTuple):
    """The bins that one object is in."""

    outputs: Sequence[int]
    inputs: Sequence[int]


class DriftCounter:
    """Observes the outputs of objects, and adds new rows to the counts of the current window.

    Parameters
    ----------
    dynamodb
        Thread-safe client.
    table
        Where the counts are.
    model
        The model's version and a digest of its baseline: counts of other bins are never added up.
    window
        Seconds of a window.
    outputs, inputs
        The numbers that are observed; inputs only where this function has them.
    """

    def __init__(
        self,
        *,
        dynamodb: DynamoDBClient,
        table: str,
        model: str,
        window: int,
        outputs: Sequence[Observed],
        inputs: Sequence[Observed] = (),
    ) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._model = model
        self._window = window
        self._outputs = outputs
        self._inputs = inputs

    @classmethod
    def from_environment(cls, dynamodb: DynamoDBClient) -> DriftCounter:
        """Return what the function's environment describes.

        Raises
        ------
        StageError
            If it is configured wrongly.
        """
        return cls(
            dynamodb=dynamodb,
            table=required("DRIFT_TABLE"),
            model=required("DRIFT_MODEL"),
            window=int(required("DRIFT_WINDOW")),
            outputs=observed_in("DRIFT_OUTPUTS"),
            inputs=observed_in("DRIFT_INPUTS"),
        )

    def bins(self, outputs: Mapping[str, Array], inputs: Sequence[int]) -> Bins:
        """Return the bins of one object, from its outputs and the bins of its inputs."""
        return Bins(bins_of(self._outputs, outputs), inputs)

    def inputs_of(self, arrays: Mapping[str, Array]) -> list[int]:
        """Return the bins of one object's inputs."""
        return bins_of(self._inputs, arrays)

    def add(self, seen: Iterable[Bins], others: Mapping[str, int]) -> None:
        """Add objects to the current window. An error loses them, and is logged: the rows are there.

        Parameters
        ----------
        seen
            The bins of each object.
        others
            Further counts, such as ``rejected``.
        """
        counts = Counter({f"n_{name}": count for name, count in others.items()})
        for bins in seen:
            counts["n_objects"] += 1
            counts.update(f"o{place}_{number}" for place, number in enumerate(bins.outputs))
            counts.update(f"i{place}_{number}" for place, number in enumerate(bins.inputs))
        counts = +counts
        if not counts:
            return
        now = int(time.time())
        started = datetime.fromtimestamp(now - now % self._window, UTC)
        added = ", ".join(f"{name} :{count}" for name, count in sorted(counts.items()))
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key={PARTITION_KEY: {"S": self._model}, SORT_KEY: {"S": started.isoformat()}},
                UpdateExpression=f"SET {EXPIRY} = :expiry ADD {added}",
                ExpressionAttributeValues={
                    ":expiry": {"N": str(now + KEPT_SECONDS)},
                    **{f":{count}": {"N": str(count)} for count in counts.values()},
                },
            )
        except (BotoCoreError, ClientError):
            _log.exception("cannot count %s objects for the drift monitor", counts["n_objects"])
