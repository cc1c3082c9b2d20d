"""Programs that read results: by object, and by the indexes of the table, with the rights that `grant_query` gives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from cdk_inference.client import Results, ResultTimeoutError
from cdk_inference.local import aws

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

PREFIX = "rows/read/"


@pytest.fixture(scope="module")
def results(cloud: LocalCloud, tables: Watched) -> Results:
    credentials = cloud.client("iam").create_access_key(UserName="finder")["AccessKey"]
    clients = aws.role_clients(cloud.endpoint, credentials, ["dynamodb"])
    return Results.of(tables.table, session=SimpleNamespace(client=clients.__getitem__))


def put(cloud: LocalCloud, tables: Watched, name: str, first: float) -> str:
    """Put an object, and return its entity tag: the events of the embedded AWS have no versions."""
    body = json.dumps({"a": first, "b": 0, "c": 0, "d": 0}).encode()
    return str(cloud.client("s3").put_object(Bucket=tables.bucket, Key=f"{PREFIX}{name}.json", Body=body)["ETag"])


def test_results_are_waited_for_found_and_paged(cloud: LocalCloud, tables: Watched, results: Results) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    tags = {name: put(cloud, tables, name, number) for number, name in enumerate("abc")}
    for number, (name, tag) in enumerate(tags.items()):
        result = results.wait(tables.bucket, f"{PREFIX}{name}.json", etag=tag, timeout=300, every=0.2)
        assert (result.status, result.etag) == ("SUCCEEDED", tag.strip('"'))
        assert result.prediction is not None
        assert result.prediction["sums"][0] == number
    newer = put(cloud, tables, "a", 7)
    again = results.wait(tables.bucket, f"{PREFIX}a.json", etag=newer, timeout=300)
    assert again.prediction != result.prediction
    assert results.history(tables.bucket, f"{PREFIX}a.json") == [again]
    assert results.newest(tables.bucket, f"{PREFIX}a.json") == again

    under = results.under(tables.bucket, PREFIX)
    assert [one.key[len(PREFIX)] for one in under] == ["a", "b", "c"]
    first = under.page(size=2)
    last = under.page(size=2, after=first.next)
    assert [len(first.results), len(last.results), last.next] == [2, 1, None]
    recorded = [one for one in results.recorded(tables.bucket, since=before) if one.key.startswith(PREFIX)]
    assert recorded[0] == again
    assert len(recorded) == 3
    assert list(results.recorded(tables.bucket, until=before - timedelta(days=1))) == []
    assert {one.status for one in results.with_status("SUCCEEDED", since=before)} == {"SUCCEEDED"}
    assert list(results.with_label("cat")) == []


def test_who_may_query_may_not_scan_or_write(
    cloud: LocalCloud, tables: Watched, results: Results, watch: type[Watched]
) -> None:
    credentials = cloud.client("iam").create_access_key(UserName="finder")["AccessKey"]
    dynamodb = aws.role_clients(cloud.endpoint, credentials, ["dynamodb"])["dynamodb"]
    for call, arguments in (("scan", {}), ("put_item", {"Item": {"object": {"S": "a"}, "version": {"S": "b"}}})):
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(dynamodb, call)(TableName=tables.table, **arguments)
    other = Results(watch(cloud, "Stages/Fused").table, dynamodb)
    with pytest.raises(ClientError, match="AccessDenied"):
        other.newest("any", "any")


def test_a_result_that_does_not_come_fails_in_time(results: Results) -> None:
    with pytest.raises(ResultTimeoutError, match="must be there within 0 s, got none"):
        results.wait("nowhere", "nothing", timeout=0)
