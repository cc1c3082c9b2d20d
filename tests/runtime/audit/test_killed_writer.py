"""A writer that is killed in the middle of a batch: the queue delivers it again, and nothing is lost or there twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

SOURCES = Path(__file__).parents[3] / "lambda_src"
DIES = """
import json, os, signal, sys
import inference_runtime.handlers.audit as audit

messages, before, after = json.load(sys.stdin), *map(int, sys.argv[1:])
put, calls = audit._s3.put_object, 0

def deadly(**given):
    global calls
    calls += 1
    if calls == before:
        os.kill(os.getpid(), signal.SIGKILL)
    put(**given)
    if calls == after:
        os.kill(os.getpid(), signal.SIGKILL)

audit._s3.put_object = deadly
audit.handler({"Records": messages}, None)
"""
"""Runs the handler, and kills its process before or after a file is written."""


@pytest.fixture(autouse=True)
def secret(environment: pytest.MonkeyPatch, bucket: str) -> None:
    environment.setenv("AUDIT_BUCKET", bucket)
    environment.setenv("AUDIT_SECRET", bucket)
    boto3.client("secretsmanager").create_secret(Name=bucket, SecretString="secret")


def message(number: int) -> dict[str, Any]:
    """Return an event of one of three days, that is: of one of three files."""
    event = {"id": str(number), "time": f"2026-11-2{number % 3}T12:00:00Z", "detail-type": "Verdict"}
    return {
        "messageId": str(number),
        "body": json.dumps({"pipeline": "p", "event": {**event, "detail": {"number": number}}}),
    }


def written(s3: S3Client, bucket: str) -> list[dict[str, Any]]:
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    return [json.loads(line) for body in bodies for line in body.splitlines()]


@pytest.mark.parametrize(
    ("before", "after", "files"),
    [(1, 0, 0), (2, 0, 1), (0, 2, 2), (0, 3, 3)],
    ids=["before the first file", "between two files", "before the last file", "before it answers"],
)
def test_a_batch_whose_writer_is_killed_is_written_once(
    s3: S3Client, bucket: str, load: Callable[[str], Any], before: int, after: int, files: int
) -> None:
    messages = [message(number) for number in range(12)]
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(before), str(after)],
        input=json.dumps(messages),
        text=True,
        cwd=SOURCES,
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len({one["time"] for one in written(s3, bucket)}) == files
    # The queue delivers all of them again, as nobody deleted them; a few come twice.
    assert load("audit")({"Records": [*reversed(messages), messages[0]]}) == {"batchItemFailures": []}
    assert load("audit")({"Records": messages}) == {"batchItemFailures": []}
    counts = Counter(one["detail"]["number"] for one in written(s3, bucket))
    assert counts == dict.fromkeys(range(12), 1)


def test_a_batch_that_comes_again_in_other_parts_has_each_record_under_one_name(
    s3: S3Client, bucket: str, load: Callable[[str], Any]
) -> None:
    handler = load("audit")
    messages = [message(number) for number in range(12)]
    for part in (messages[:7], messages[:5], messages[5:], messages[3:9]):
        assert handler({"Records": part}) == {"batchItemFailures": []}
    found = written(s3, bucket)
    by_name = {one["record"]: one for one in found}
    assert sorted(one["detail"]["number"] for one in by_name.values()) == list(range(12))
    assert all(by_name[one["record"]] == one for one in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["S", "by", "reason"]), inner),
    max_leaves=4,
)
MALFORMED = JSON | JSON.map(lambda decision: [{"S": json.dumps(decision)}]) | JSON.map(lambda entry: [entry])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=MALFORMED)
def test_an_event_that_is_malformed_takes_no_other_with_it(load: Callable[[str], Any], history: object) -> None:
    event = {"id": "m", "time": "2026-11-20T12:00:00Z", "detail-type": "Release Decision"}
    detail = {"event_id": "m", "history": history}
    malformed = {
        "messageId": "malformed",
        "body": json.dumps({"pipeline": "q", "event": {**event, "detail": detail}}),
    }
    failed = load("audit")({"Records": [malformed, message(1)]})["batchItemFailures"]
    assert failed in ([], [{"itemIdentifier": "malformed"}])


def test_a_change_of_models_that_cannot_be_written_is_not_answered(
    environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> None:
    environment.setenv("AUDIT_BUCKET", "there-is-no-such-bucket")
    request = {
        "RequestType": "Create",
        "StackId": "s",
        "LogicalResourceId": "l",
        "RequestId": "r",
        "ResponseURL": "http://127.0.0.1:1/nobody-is-asked",
        "ResourceProperties": {"Pipeline": "p", "Models": {"main": {"version": "1"}}},
    }
    with pytest.raises(RetryableError, match="cannot record the models of a deployment"):
        load("audit")(request)
