"""The agent as a process: what it takes, decides and sends."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.edge.device import SURE, UNSURE
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client
    from tests.runtime.edge.device import Device, Proxy


def test_sure_answers_are_rows_and_unsure_items_are_in_the_inbox(
    device: Device,
    rows: Callable[[], dict[str, Any]],
    uploaded: Callable[[], dict[str, Any]],
    s3: S3Client,
    bucket: str,
) -> None:
    device.variables |= {"RESULTS_FOLDER": str(device.root / "results"), "MAX_OBJECT_BYTES": "100"}
    device.variables |= {"WATCH_SUFFIXES": ".part, .JSON,.json", "UPLINK_BYTES_PER_SECOND": ""}
    device.start()
    device.put("other.jpg", SURE)
    device.put("a/sure.JSON", SURE)
    device.put("unsure.json", UNSURE)
    device.put("refused.json", b"refuse")
    device.put("large.json", b"[0, 9]" + b" " * 100)
    device.put("empty.json", b"")
    device.put("ünïcode \\ .json", SURE)
    odd = os.fsencode(device.watched) + b"/\xff\nodd.json"
    with open(odd, "wb") as file:  # noqa: PTH123 - the name is bytes
        file.write(SURE)
    os.utime(odd, (10**14, 10**14))
    (device.watched / "link.json").symlink_to(device.package / "edge.json")
    os.mkfifo(device.watched / "pipe.json")
    (device.watched / "unfinished.part").write_bytes(SURE)
    device.wait(lambda: len(rows()) == 6 and len(uploaded()) == 1)
    device.wait(lambda: device.files() == ["other.jpg", "unfinished.part"])
    found = rows()
    assert {key: row["status"] for key, row in found.items()} == {
        "a/sure.JSON": "SUCCEEDED",
        "ünïcode \\ .json": "SUCCEEDED",
        "\\xff\nodd.json": "SUCCEEDED",
        "refused.json": "REJECTED",
        "large.json": "REJECTED",
        "empty.json": "REJECTED",
    }
    sure = found["a/sure.JSON"]
    assert (sure["object"], sure["version"], sure["prediction"]) == (
        "edge:cam-1/a/sure.JSON",
        "null#r1",
        {"label": "1"},
    )
    assert sure["confidence"] > 0.9
    ((key, metadata),) = uploaded().items()
    assert (key[:11], key[43:]) == ("edge/cam-1/", "/unsure.json")
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == UNSURE
    assert json.loads(metadata["edge-answer"]) == {"status": "SUCCEEDED", "prediction": {"label": "0"}}
    assert (metadata["edge-device"], metadata["edge-version"]) == ("cam-1", "1.0.0")
    assert device.stop() == 0
    counts = device.status()["counts"]
    assert counts == {"taken": 7, "sure": 3, "escalated": 1, "rejected": 3, "failed": 0, "sent": 7}
    assert "CloudWatchMetrics" not in device.log
    (lines,) = (device.root / "results").iterdir()
    told = {line["key"]: line["decision"] for line in map(json.loads, lines.read_text().splitlines())}
    assert (told["unsure.json"], told["a/sure.JSON"], told["large.json"]) == ("escalated", "sure", "rejected")


def test_a_cut_network_and_a_killed_process_lose_nothing_and_write_nothing_twice(
    device: Device, network: Proxy, rows: Callable[[], dict[str, Any]], s3: S3Client, bucket: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    chance = random.Random(20)  # noqa: S311 - no secret
    names = [f"{number:02}.json" for number in range(40)]
    device.variables |= {"MAX_MESSAGES": "2", "WATCH_AFTER": "move"}

    def put(some: list[str]) -> None:
        for name in some:
            device.put(name, b"[%d, %d]" % ((0, 9) if int(name[:2]) % 2 else (int(name[:2]), int(name[:2]))))

    device.start()
    put(names[:10])
    for begin in range(10, 40, 10):
        goal = chance.randrange(begin - 8, begin)
        device.wait(lambda goal=goal: sum(device.status().get("counts", {}).values()) >= goal)
        network.cut()
        device.kill()
        put(names[begin : begin + 10])
        device.start()
        device.wait(lambda: not device.status()["waiting"]["to_score"])
        network.restore()
    device.wait(lambda: device.settled() or len(device.files()) == len(names))
    device.wait(lambda: not any(device.status()["waiting"].values()))
    assert sorted(rows()) == names[1::2]
    versions = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert sorted(version["Key"].rpartition("/")[2] for version in versions) == names[::2]
    assert device.files() == [f"done/{name}" for name in names]
    assert device.stop() == 0
    assert device.status()["counts"]["sent"] == len(names)
    assert not list((device.state / "spool").iterdir())


def test_an_item_that_fails_hangs_or_ends_the_process_is_set_aside(
    device: Device, rows: Callable[[], dict[str, Any]]
) -> None:
    device.variables |= {"BATCH_SECONDS": "2"}
    device.start()
    device.put("raise.json", b"raise")
    device.put("hang.json", b"hang")
    device.put("sure.json", SURE)
    device.wait(lambda: device.files() == ["failed/hang.json", "failed/raise.json"])
    assert "as it was told" in device.log
    device.put("crash.json", b"crash")
    assert device.process is not None
    for _ in range(3):
        device.process.wait(PATIENCE)
        device.put("between.json", SURE)
        device.start(ready=False)
    device.wait(lambda: "failed/crash.json" in device.files() and "between.json" in rows())
    device.put("stuck.json", b"stuck")
    assert device.process.wait(PATIENCE) == 1
    assert "Timeout (0:00:08)!" in device.log
    assert sorted(rows()) == ["between.json", "sure.json"]


def test_a_full_spool_leaves_files_where_they_are_until_there_is_room(
    device: Device, network: Proxy, rows: Callable[[], dict[str, Any]], uploaded: Callable[[], dict[str, Any]]
) -> None:
    device.variables |= {"MAX_OBJECT_BYTES": "6000", "MAX_SPOOL_BYTES": "16000"}
    network.cut()
    device.start()
    other = device.command("run")
    assert (other.returncode, "must be used by one process at a time" in other.stderr) == (1, True)
    for number in range(6):
        device.put(f"{number}.json", b"[0, %d]" % number + b" " * 4_000)
    device.wait(lambda: device.status().get("full"))
    assert "the spool is full" in device.log
    assert device.files()
    assert device.status()["spool_bytes"] <= 16_000
    network.restore()
    device.wait(device.settled)
    assert len(uploaded()) + len(rows()) == 6
    assert device.log.count("the spool is full") == 1


def test_a_broken_database_is_moved_aside_and_the_spool_is_scored_again(
    device: Device, network: Proxy, uploaded: Callable[[], dict[str, Any]]
) -> None:
    network.cut()
    device.start()
    device.put("a.json", UNSURE)
    device.wait(lambda: device.status().get("waiting", {}).get("objects") == 1)
    device.kill()
    database = device.state / "outbox.db"
    database.with_name("outbox.db-wal").unlink()
    database.write_bytes(b"SQLite format 3\0" + b"?" * 50_000)
    network.restore()
    device.start()
    device.wait(lambda: len(uploaded()) == 1)
    assert "the broken database was moved to" in device.log
    assert len(list(device.state.glob("broken-*.db"))) == 1


def test_a_refusal_is_said_once_and_loses_nothing(device: Device, rows: Callable[[], dict[str, Any]]) -> None:
    table = device.variables["RESULTS_TABLE"]
    device.variables |= {"RESULTS_TABLE": "absent"}
    device.start()
    device.put("a.json", SURE)
    device.wait(lambda: "ResourceNotFoundException" in device.status().get("failing", {}).get("row", ""))
    device.wait(lambda: device.status()["uptime_seconds"] >= 1)
    assert device.log.count("rows cannot be sent now") == 1
    assert device.stop() == 0
    device.variables |= {"RESULTS_TABLE": table}
    device.start()
    device.wait(lambda: "a.json" in rows())


def test_what_was_scored_while_the_clock_was_not_set_says_so(
    device: Device, rows: Callable[[], dict[str, Any]]
) -> None:
    device.variables |= {"CLOCK": "5000", "RESULT_TTL_DAYS": "1"}
    device.start()
    device.put("a.json", SURE)
    device.wait(rows)
    row = rows()["a.json"]
    assert (row["clock"], int(row["sequencer"]) < 10_000 * 10**9) == ("not set", True)
    assert device.status()["clock_set"] is False
    assert device.stop() == 0
    del device.variables["CLOCK"]
    device.start()
    device.put("a.json", SURE)
    device.wait(lambda: "clock" not in rows()["a.json"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DEVICE": "no/slash"}, "DEVICE must be 1 to 128 letters"),
        ({"INBOX_BUCKET": ""}, "INBOX_BUCKET must be set, since this version escalates"),
        ({"STATE_FOLDER": "watched/state"}, "STATE_FOLDER must be outside of WATCH_FOLDER"),
        ({"MAX_SPOOL_BYTES": "1"}, "MAX_SPOOL_BYTES must be a whole number from 67,108,864 to"),
        ({"WATCH_FOLDER": ""}, "WATCH_FOLDER or MQTT_URL must be set"),
        ({"MQTT_URL": "http://secret@a"}, "MQTT_URL must be mqtt://host:port or mqtts://host:port"),
    ],
)
def test_wrong_settings_are_told(device: Device, monkeypatch: Any, changes: dict[str, str], message: str) -> None:
    from inference_runtime.edge.package import Package
    from inference_runtime.edge.settings import Settings
    from inference_runtime.errors import StageError

    monkeypatch.chdir(device.root)
    for name, value in {**device.variables, "WATCH_FOLDER": "watched", **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError, match=message) as error:
        Settings.from_environment(Package.read())
    assert "secret" not in str(error.value)


def test_a_version_for_another_python_is_refused_by_name(device: Device) -> None:
    from tests.runtime.edge.device import write_package

    from inference_runtime.edge.package import Package
    from inference_runtime.errors import StageError

    with pytest.raises(StageError, match=r"this version needs Python 2\.7, got 3"):
        Package.read(write_package(device.package, python="2.7"))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"item": {"key": "a", "data": "WzAsIDld", "prediction": {"label": "0"}}}, "prediction must be"),
        ({"item": {"key": "a", "data": "cmVmdXNl", "prediction": {}}}, "got REJECTED: as it was told"),
        ({"inputs": {"x": {}}}, "check of edge.json is malformed"),
    ],
)
def test_a_version_that_answers_otherwise_than_its_build_does_not_run(
    device: Device, example: dict[str, Any], message: str
) -> None:
    from tests.runtime.edge.device import write_package

    write_package(device.package, check=example)
    done = device.command("run")
    assert (done.returncode, message in done.stderr) == (1, True)
    assert "this version is not used" in done.stderr
