"""The backfill that the documentation shows scores what is there, and changes nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parents[3] / "examples/backfill/backfill.py"
PREFIX = "rows/backfill/"
NAMES = [f"{PREFIX}{number:02} ü+.txt" for number in range(12)]  # the rule takes other suffixes only


def backfill(tables: Watched) -> str:
    places = ["--bucket", tables.bucket, "--table", tables.table, "--queue", tables.queue, "--prefix", PREFIX]
    command = [sys.executable, SCRIPT, *places]
    done = subprocess.run(command, env=tables.cloud.environment(), capture_output=True, text=True, check=True)
    wait_until(lambda: not tables.messages(tables.queue), every=0.25)
    return done.stdout


def rows(tables: Watched) -> dict[str, dict[str, Any]]:
    found = tables.rows(*NAMES)
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


def test_a_backfill_scores_objects_and_loses_nothing(cloud: LocalCloud, tables: Watched) -> None:
    s3, dynamodb = cloud.client("s3"), cloud.client("dynamodb")
    for number, name in enumerate(NAMES):
        for first in (100, number):
            body = json.dumps({"a": first, "b": 0, "c": 0, "d": 0}).encode()
            s3.put_object(Bucket=tables.bucket, Key=name, Body=body, Metadata={"camera": "left"})
    s3.put_object(Bucket=tables.bucket, Key=f"{PREFIX}deleted", Body=b"{}")
    s3.delete_object(Bucket=tables.bucket, Key=f"{PREFIX}deleted")
    versions = s3.list_object_versions(Bucket=tables.bucket, Prefix=PREFIX)["Versions"]
    assert rows(tables) == {}

    assert backfill(tables) == "sent 12 objects\n"
    scored = rows(tables)
    assert [scored[name]["status"] for name in NAMES] == ["SUCCEEDED"] * len(NAMES)
    assert [scored[name]["prediction"]["sums"][0] for name in NAMES] == list(range(len(NAMES)))
    assert {row["sequencer"] for row in scored.values()} == {"0" * 32}
    assert s3.list_object_versions(Bucket=tables.bucket, Prefix=PREFIX)["Versions"] == versions
    assert s3.head_object(Bucket=tables.bucket, Key=NAMES[0])["Metadata"] == {"camera": "left"}

    assert backfill(tables) == "sent 12 objects\n"
    assert rows(tables) == scored

    # As if the row were one of an earlier model, made by an event of S3.
    row, write = scored[NAMES[0]], TypeSerializer().serialize
    keys = {name: {"S": row[name]} for name in ("object", "version")}
    dynamodb.delete_item(TableName=tables.table, Key=keys)
    version_id = row["version"].partition("#")[0]
    old = {
        **row,
        "key": "of an earlier model",
        "version": f"{version_id}#000000000000",
        "sequencer": "ab".ljust(32, "0"),
    }
    dynamodb.put_item(TableName=tables.table, Item={name: write(value) for name, value in old.items()})
    backfill(tables)
    again = rows(tables)[NAMES[0]]
    assert (again["version"], again["prediction"]) == (row["version"], row["prediction"])
    assert again["sequencer"] == old["sequencer"]
