"""How long an object takes to become a row in the embedded AWS, by each way: `python -m benchmarks.arrival`.

Objects are put in turn into the bucket of a direct pipeline and into that of one with a workflow of separate stages.
The app is that of the end-to-end tests. Its pipes wait up to a second for a batch to fill up. Lambda's pollers do so on
AWS, and not in the embedded AWS.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.local import LocalCloud

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS = 40
WARM = 5
APP = Path(__file__).parents[1] / "tests" / "e2e" / "triggers" / "app"

_ORDER = b"return [1, 2, 30, 40]"
_LOOK_SECONDS = 0.01
_LOST_SECONDS = 300.0
_WAYS = {"Direct": "in/", "Staged": "inbox/"}


def seconds_to_row(cloud: LocalCloud, parts: Mapping[str, str], key: str) -> float:
    """Put an object, and return the seconds until it has a row."""
    s3, dynamodb = cloud.client("s3"), cloud.client("dynamodb")
    asked = {":object": {"S": f"{parts['inbox']}/{key}"}}
    begun = time.perf_counter()
    s3.put_object(Bucket=parts["inbox"], Key=key, Body=_ORDER)
    while not dynamodb.query(
        TableName=parts["results"],
        KeyConditionExpression="#object = :object",
        ExpressionAttributeNames={"#object": "object"},
        ExpressionAttributeValues=asked,
    )["Items"]:
        if time.perf_counter() - begun > _LOST_SECONDS:
            raise SystemExit(f"error: {key} has no row after {_LOST_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
    return time.perf_counter() - begun


def main() -> None:
    """Deploy the app, measure, and print."""
    with LocalCloud() as cloud:
        cloud.deploy(Path(sys.argv[1]) if len(sys.argv) > 1 else APP)
        parts = {
            name: {one.metadata["role"]: one.physical_id for one in cloud.resources(pipeline=f"Triggers/{name}")}
            for name in _WAYS
        }
        taken: dict[str, list[float]] = {name: [] for name in _WAYS}
        for number in range(WARM + ROUNDS):
            for name, prefix in _WAYS.items():
                seconds = seconds_to_row(cloud, parts[name], f"{prefix}{number}")
                if number >= WARM:
                    taken[name].append(seconds)
        for name, seconds_taken in taken.items():
            quarters = statistics.quantiles(seconds_taken, n=4)
            print(f"{name}: {quarters[1]:.2f} s, quartiles {quarters[0]:.2f} and {quarters[2]:.2f} s")  # noqa: T201
        ratio = statistics.median(taken["Direct"]) / statistics.median(taken["Staged"])
        print(f"direct over staged: {ratio:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
