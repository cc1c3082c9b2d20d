"""Objects with many items: each item ends as one row, once, and what cannot be taken apart as a dead letter."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws
from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.triggers.parts import Parts

pytestmark = pytest.mark.e2e

SMALL = 1024
RETRIES = 4


def line(item: object, a: object = 1) -> bytes:
    """Return a line that is scored, whose first sum is ``a + 2``."""
    return json.dumps({"id": item, "a": a, "b": 2, "c": 3, "d": 4}).encode() + b"\n"


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def test_lines_of_large_and_small_objects_end_once(lines: Parts, pipes: PipeRunner) -> None:
    large = [line(f"n{number}", number) for number in range(60)]
    large[7:8] = [b"{no JSON\n", b"\n", b'["no object"]\n']  # lines 8, 9 and 10
    large[40] = large[41]  # the same id twice, on the lines 41 and 42
    lines.put("large ü+.jsonl", b"".join(large))
    lines.put("small.jsonl", line("a", 5) + line("b") + line("c"))
    ends = lines.settle("large ü+.jsonl", 61)
    names = {f"n{number}" for number in range(60)} - {"n7", "n38"}
    assert {name for name, end in ends.items() if end == "SUCCEEDED"} == names | {"#42"}
    assert {name for name, end in ends.items() if end == "REJECTED"} == {"#8", "#10"}
    assert len(lines.splits()) == 1
    row = lines.of("large ü+.jsonl")["n59"]
    assert row["bucket"] == f"s3:{lines.inbox}"
    assert row["prediction"]["sums"] == [61, 7]
    assert lines.settle("small.jsonl", 3) == dict.fromkeys("abc", "SUCCEEDED")
    assert len(lines.splits()) == 1  # the small one needed none
    assert lines.dead_bodies() == []
    assert pipes.refusals == []


def test_an_event_that_comes_twice_changes_nothing(lines: Parts) -> None:
    data = b"".join(line(number) for number in range(40))
    assert len(data) > SMALL
    lines.put("twice.jsonl", data)
    lines.settle("twice.jsonl", 40)
    body = lines.event("twice.jsonl", "00FF")
    lines.tell(body)
    wait_until(lambda: not lines.busy())
    before, executions = lines.of("twice.jsonl"), lines.splits()
    lines.tell(body)
    wait_until(lambda: not lines.busy())
    assert lines.of("twice.jsonl") == before
    assert lines.splits() == executions


def test_the_lines_of_an_overwritten_object_replace_those_before(lines: Parts) -> None:
    for number in (1, 2, 3):
        lines.put("over.jsonl", line("a", number) + (line("b", number) if number < 3 else b""))
        lines.settle("over.jsonl", 2)
    found = lines.of("over.jsonl")
    assert [found[name]["prediction"]["sums"][0] for name in "ab"] == [5, 4]
    assert found["a"]["sequencer"] > found["b"]["sequencer"]


def test_a_chunk_waits_for_a_function_that_is_throttled(lines: Parts) -> None:
    before = set(lines.splits())
    with lines.throttled("SplitChunk"):
        lines.put("throttled.jsonl", b"".join(line(number) for number in range(30)))
        wait_until(lambda: lines.splits().keys() - before)
        (execution,) = lines.splits().keys() - before
        # More than a state tries in a row: it has waited, and begun anew.
        wait_until(lambda: max(lines.failures(execution), default=0) > 1 + RETRIES, every=0.5)
    assert set(lines.settle("throttled.jsonl", 30).values()) == {"SUCCEEDED"}


def test_files_of_an_archive_end_once_and_a_file_has_their_results(archives: Parts) -> None:
    noise = random.Random(1).randbytes(40_000).hex().encode()  # noqa: S311 - what does not become small
    members = {
        "a/first.txt": b"return [1, 2, 3, 4]",
        "large.txt": b"return [5, 6, 7, 8" + b" " * 60_000 + b"]",
        "no.jpg": b"return [1, 1, 1, 1]",
        "refused.TXT": b"refuse",
        "noise.txt": b"unknown " + noise,
        "raises.txt": b"raise",
        "ü/last.txt": b"return [9, 9, 9, 9]",
    }
    archives.put("elsewhere/all.zip", archive(members))
    archives.put("in/all.zip", archive(members))
    ends = archives.settle("in/all.zip", 5)
    assert ends == {
        "a/first.txt": "SUCCEEDED",
        "large.txt": "SUCCEEDED",
        "refused.TXT": "REJECTED",
        "noise.txt": "REJECTED",
        "ü/last.txt": "SUCCEEDED",
    }
    assert archives.of("elsewhere/all.zip") == {}
    (dead,) = [json.loads(body)["item"]["id"] for body in archives.dead_bodies()]
    assert dead == "in/all.zip#raises.txt"
    assert archives.of("in/all.zip")["large.txt"]["size"] == len(members["large.txt"])


def test_what_is_no_archive_becomes_a_dead_letter_that_may_be_sent_again(archives: Parts) -> None:
    archives.put("in/broken.zip", b"PK no archive" * 100)
    (letter,) = archives.dead_letters_of("in/broken.zip", 1)
    said = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert said["Error"] == "CorruptObjectError"
    assert said["Cause"]
    archives.tell(letter["Body"])
    again = archives.dead_letters_of("in/broken.zip", 2)
    assert {one["Body"] for one in again} == {letter["Body"]}


def test_a_file_of_results_has_a_line_for_each_item(archives: Parts) -> None:
    archives.put("in/few.zip", archive({f"{number}.txt": b"return [%d, 0, 1, 1]" % number for number in range(25)}))
    results = archives.results("in/few.zip")
    assert [one["key"] for one in results] == [f"in/few.zip#{number}.txt" for number in range(25)]
    assert [one["prediction"]["sums"][0] for one in results] == list(range(25))
    # A late event of an upload that was overwritten.
    before = archives.splits()
    event = json.loads(archives.event("in/few.zip", "00"))
    event["detail"]["object"] = {**event["detail"]["object"], "version-id": None, "etag": "0" * 32, "size": 9}
    archives.tell(json.dumps(event))
    wait_until(lambda: archives.splits().keys() - before.keys())
    (execution,) = archives.splits().keys() - before.keys()
    wait_until(lambda: archives.splits()[execution] != "RUNNING", every=0.5)
    assert archives.splits()[execution] == "SUCCEEDED"
    entered = [
        said["stateEnteredEventDetails"]["name"]
        for said in archives.history(execution)
        if "stateEnteredEventDetails" in said
    ]
    assert "Wait for rows" not in entered
    assert archives.results("in/few.zip") == results


def test_whoever_may_put_objects_and_read_results_may_do_nothing_else(
    cloud: LocalCloud, lines: Parts, archives: Parts
) -> None:
    archives.put("in/read.zip", archive({"a.txt": b"return [1, 2, 3, 4]"}))
    archives.results("in/read.zip")
    key = cloud.client("iam").create_access_key(UserName="sender")["AccessKey"]
    s3 = aws.role_clients(cloud.endpoint, key, ["s3"])["s3"]
    s3.put_object(Bucket=lines.inbox, Key="sent.jsonl", Body=line("a"))
    assert lines.settle("sent.jsonl", 1) == {"a": "SUCCEEDED"}
    assert s3.get_object(Bucket=archives.items_bucket, Key="results/in/read.zip.jsonl")["Body"].read()
    for refused in (
        lambda: s3.put_object(Bucket=archives.inbox, Key="in/sent.zip", Body=b"x"),
        lambda: s3.put_object(Bucket=lines.items_bucket, Key="items/x", Body=b"x"),
        lambda: s3.get_object(Bucket=archives.items_bucket, Key="splits/x"),
        lambda: s3.get_object(Bucket=lines.items_bucket, Key="results/sent.jsonl.jsonl"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
