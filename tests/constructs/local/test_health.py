"""No part of the embedded AWS ends unnoticed: a caller that waits for it fails at once, with the reason."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.constructs.local.processes import group
from tests.constructs.local.templates import create, pipeline
from tests.waiting import PATIENCE, wait_until

from cdk_inference.local import LocalCloud, LocalError, aws
from cdk_inference.local.emulator.health import Health
from cdk_inference.local.emulator.parts import _error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cdk_inference.local.uploads import Pipeline, Upload

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the logs of what fails here out of the machine's folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def cloud(temporary: Path) -> Iterator[LocalCloud]:
    with LocalCloud(retry_after=0) as cloud:
        yield cloud


def wait(cloud: LocalCloud, on_line: Callable[[str], None] | None = None, timeout: float = PATIENCE) -> str:
    """Wait for an object of which nobody hears, and return why that fails."""
    with pytest.raises(LocalError) as failure:
        cloud.wait_for([cloud.pipeline().put("any", b"x")], timeout=timeout, on_line=on_line)
    return str(failure.value)


def send(cloud: LocalCloud, body: str = "{}") -> None:
    sqs = cloud.client("sqs")
    sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName="marked")["QueueUrl"], MessageBody=body)


def log_in(message: str) -> str:
    return Path(message.rpartition("; its log: ")[2]).read_text()


def test_a_killed_emulator_ends_the_wait(cloud: LocalCloud, capfd: pytest.CaptureFixture[str]) -> None:
    create(cloud.client("cloudformation"), "Marked", pipeline())
    leader = cloud.emulator._process.pid
    lines = []

    def kill(line: str) -> None:
        if not lines:
            os.kill(leader, signal.SIGKILL)
        lines.append(line)

    message = wait(cloud, kill)
    assert message.startswith("the emulator of the embedded AWS was killed by SIGKILL; its log: ")
    assert log_in(message)
    assert Path(message.rpartition("; its log: ")[2]).stat().st_mode & 0o777 == 0o600
    assert lines == ["0 of 1 objects have a row; queue: 0 visible, 0 in flight; executions: 0 running, 0 failed"]
    wait_until(lambda: not group(leader))
    with pytest.raises(LocalError, match="was killed by SIGKILL"):
        cloud.results()
    assert capfd.readouterr().err == ""


def test_a_killed_emulator_ends_the_cdk_cli(cloud: LocalCloud, tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = f"{sys.executable} -c \"import pathlib, time; pathlib.Path('{started}').touch(); time.sleep({PATIENCE})\""

    def kill() -> None:
        wait_until(started.exists)
        os.kill(cloud.emulator._process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LocalError, match="was killed by SIGKILL; its log: "):
        cloud.deploy(tmp_path, app=command)
    killer.join()


@pytest.mark.parametrize("missing", ["sqs", "stepfunctions"], ids=["polling", "delivering"])
def test_a_thread_of_a_pipe_that_raises_ends_the_wait(
    missing: str, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def incomplete(*given: Any) -> dict[str, Any]:
        return {service: client for service, client in real(*given).items() if service != missing}

    real = aws.role_clients
    monkeypatch.setattr(aws, "role_clients", incomplete)
    create(cloud.client("cloudformation"), "Marked", pipeline())
    send(cloud)
    with pytest.raises(LocalError) as failure:  # the pipe may have ended before there is anything to wait for
        cloud.wait_for([cloud.pipeline().put("any", b"x")], timeout=PATIENCE)
    assert re.match(rf"pipe marked ended unexpectedly: KeyError: '{missing}'; its log: ", str(failure.value))
    assert f"KeyError: '{missing}'" in log_in(str(failure.value))
    assert log_in(str(failure.value)).count("Traceback") == 1
    assert cloud.emulator.alive
    assert capfd.readouterr().err == ""


def test_a_watcher_that_raises_ends_the_wait(cloud: LocalCloud) -> None:
    create(cloud.client("cloudformation"), "Marked", pipeline(BatchSize="many"))
    with pytest.raises(LocalError) as failure:
        cloud.wait_for([cloud.pipeline().put("any", b"x")], timeout=PATIENCE)
    assert str(failure.value).startswith("the watcher of deployments ended unexpectedly: ValueError: invalid literal")


def test_what_nobody_waited_for_fails_at_the_end() -> None:
    def forget() -> None:
        with LocalCloud() as cloud:
            os.kill(cloud.emulator._process.pid, signal.SIGKILL)
            wait_until(lambda: cloud._health.failure)

    with pytest.raises(LocalError, match="was killed by SIGKILL"):
        forget()


def test_a_refusal_is_not_an_end_and_is_told_when_the_time_is_over(cloud: LocalCloud) -> None:
    body = pipeline()
    trust = body["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]
    trust["Statement"][0]["Principal"]["Service"] = "events.amazonaws.com"
    create(cloud.client("cloudformation"), "Marked", body)
    upload = cloud.pipeline().put("any", b"x")
    before = len(cloud.refusals)
    wait_until(lambda: len(cloud.refusals) > before + 1)  # the first may have begun before the upload
    lines: list[str] = []
    with pytest.raises(LocalError) as failure:
        cloud.wait_for([upload], timeout=1, on_line=lines.append)
    message = str(failure.value)
    refused = "last error: pipe marked: AssumeRole failed: the trust policy of arn:aws:iam::"
    assert message.startswith(
        f"1 objects must have a row or a dead letter after 1 s, got neither for 1: any; {refused}"
    )
    assert lines[-1].startswith(f"0 of 1 objects have a row; {refused}")
    for said in (message, lines[-1]):
        assert said.endswith("; queue: 0 visible, 0 in flight; executions: 0 running, 0 failed")
    cloud.check()


def test_the_first_end_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    health = Health(tmp_path / "state" / "parts.log", kept=tmp_path)
    health.check()
    health.fail("the first")
    health.ended("the second", ValueError("late"))
    with pytest.raises(LocalError, match=r"^the first; its log: "):
        health.check()
    health.close()


def counts(cloud: LocalCloud) -> list[int]:
    """How many messages are visible, and how many in flight."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    sqs = cloud.client("sqs")
    url = sqs.get_queue_url(QueueName="marked")["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return [int(found[name]) for name in names]


def test_a_deeply_nested_message_is_taken_like_any_other(cloud: LocalCloud) -> None:
    body = pipeline()
    body["Resources"]["Pipe"]["Properties"]["TargetParameters"]["InputTemplate"] = '{"body": <$.body>}'
    create(cloud.client("cloudformation"), "Marked", body)
    for message in ("[" * 100_000 + "]" * 100_000, "{}"):
        send(cloud, message)
    wait_until(lambda: counts(cloud) == [0, 0] or cloud.refusals or cloud._health.failure)
    cloud.check()
    assert cloud.refusals == []
    assert counts(cloud) == [0, 0]


def test_messages_in_flight_are_not_each_tried_after_the_emulator_was_killed(cloud: LocalCloud) -> None:
    body = pipeline(BatchSize=10, MaximumBatchingWindowInSeconds=300)  # until a batch is full
    states = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 250, "End": True}}}
    body["Resources"]["Machine"]["Properties"]["DefinitionString"] = json.dumps(states)
    create(cloud.client("cloudformation"), "Marked", body)
    for _ in range(20):
        send(cloud)
    wait_until(lambda: counts(cloud) == [0, 20])
    shown_again: list[str] = []
    aws.client(cloud.endpoint, "sqs").meta.events.register(
        "before-call.sqs.ChangeMessageVisibility", lambda params, **_: shown_again.append(params["body"])
    )
    os.kill(cloud.emulator._process.pid, signal.SIGKILL)
    with pytest.raises(LocalError, match="was killed by SIGKILL"):
        wait_until(cloud.check)
    cloud.stop()
    assert len(shown_again) <= 5  # one for each batch


@pytest.mark.e2e
def test_a_killed_worker_ends_the_wait(local_cloud: LocalCloud, probe: Pipeline) -> None:
    hanging = local_cloud.emulator.state / "tmp" / "hanging"

    def kill(line: str) -> None:
        if hanging.exists() and (process := hanging.read_text()):
            hanging.unlink()
            os.kill(int(process), signal.SIGKILL)

    upload = probe.put("in/hang", b"x")
    try:
        with pytest.raises(LocalError) as failure:
            probe.wait_for([upload], PATIENCE, on_line=kill)
    finally:
        local_cloud.client("s3").delete_object(Bucket=upload.bucket, Key=upload.key)
    assert re.match(
        r"function Score\w+ was killed by SIGKILL; if nobody did it, the machine ran out of memory; its log group: ",
        str(failure.value),
    )
    local_cloud.check()  # the others go on
    assert [o.status for o in probe.wait_for([upload], PATIENCE)] == ["DEAD_LETTER"]  # so does whoever waits again
    assert [o.status for o in probe.wait_for([probe.put("in/good after it", b"x")], PATIENCE)] == ["SUCCEEDED"]


@pytest.mark.e2e
def test_a_function_that_does_not_start_ends_the_wait(local_cloud: LocalCloud, ready: Callable[..., Path]) -> None:
    local_cloud.deploy(ready(stack="Broken", broken="true"))
    broken = local_cloud.pipeline("Broken")
    with pytest.raises(LocalError) as failure:
        broken.wait_for([broken.put("in/any", b"x")], PATIENCE)
    assert re.match(
        r"function Score\w+ does not start: .*No module named 'nonexistent'; its log group: ", str(failure.value)
    )


def test_two_clouds_do_not_disturb_each_other(cloud: LocalCloud) -> None:
    with LocalCloud() as other:
        for each in (cloud, other):
            create(each.client("cloudformation"), "Marked", pipeline())
        other.pipeline().put("any", b"x")
        assert "Contents" not in cloud.client("s3").list_objects_v2(Bucket=cloud.pipeline().inbox)
        os.kill(cloud.emulator._process.pid, signal.SIGKILL)
        with pytest.raises(LocalError, match="was killed by SIGKILL"):
            wait_until(cloud.check)
        send(other)
        sqs = other.client("sqs")
        url, names = sqs.get_queue_url(QueueName="marked")["QueueUrl"], ["ApproximateNumberOfMessages"]
        wait_until(lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"][names[0]] == "0")
        other.check()
        assert other.refusals == []


class Seen(Exception):  # noqa: N818
    """Ends a wait that has shown what it should."""


def check_shown(wait: Callable[..., object], uploads: Sequence[Upload], pattern: str) -> None:
    """Wait until a line is shown, and fail with the last one if none is."""
    line = ""

    def look(shown: str) -> None:
        nonlocal line
        line = shown
        if re.fullmatch(pattern, line):
            raise Seen

    try:
        wait(uploads, timeout=PATIENCE, on_line=look)
    except Seen:
        return
    except LocalError as error:
        pytest.fail(f"no line was {pattern!r}, and the last one was {line!r}: {error}")
    pytest.fail(f"all is done, no line was {pattern!r}, and the last one was {line!r}")


def test_waiting_shows_executions_that_fail_and_why(cloud: LocalCloud) -> None:
    body = pipeline()
    states = {"StartAt": "Fail", "States": {"Fail": {"Type": "Fail", "Error": "Broken", "Cause": "as it was told"}}}
    body["Resources"]["Machine"]["Properties"]["DefinitionString"] = json.dumps(states)
    create(cloud.client("cloudformation"), "Marked", body)
    send(cloud)
    line = (
        r"0 of 1 objects have a row; last error: pipe marked: StartSyncExecution failed: the execution must succeed, "
        r"got FAILED: Broken as it was told; queue: \d visible, \d in flight; executions: \d running, [1-9]\d* failed"
    )
    check_shown(cloud.wait_for, [cloud.pipeline().put("any", b"x")], line)


@pytest.mark.e2e
def test_waiting_shows_how_many_are_done(local_cloud: LocalCloud, probe: Pipeline) -> None:
    done, hanging = probe.put("in/done", b"x"), None
    assert probe.wait_for([done], PATIENCE)[0].status == "SUCCEEDED"
    hanging = probe.put("in/hang on", b"x")
    line = r"1 of 2 objects have a row; queue: 0 visible, 1 in flight; executions: 1 running, 0 failed"
    try:
        check_shown(probe.wait_for, [done, hanging], line)
    finally:
        local_cloud.client("s3").delete_object(Bucket=hanging.bucket, Key=hanging.key)
    [ended] = probe.wait_for([hanging], PATIENCE)
    assert ended.status == "DEAD_LETTER"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("REPORT RequestId: 1\tDuration: 3 ms", None),
        ("scoring in/Error: one", None),
        ("Traceback (most recent call last):", None),
        ("botocore.errorfactory.ResourceNotFoundException: no table", "ResourceNotFoundException: no table"),
        ("Task timed out after 3.00 seconds", "Task timed out after 3.00 seconds"),
        ('{"level": "INFO", "message": "ValueError: no"}', None),
        (
            '{"level": "ERROR", "message": "cannot", "exception": "Traceback\\nValueError: no\\n"}',
            "cannot: ValueError: no",
        ),
        ('{"level": "CRITICAL", "message": {"code": 3}}', "{'code': 3}"),
        ('{"no JSON', None),
    ],
)
def test_lines_of_logs_that_tell_of_errors(line: str, error: str | None) -> None:
    found = _error(line)
    assert found is None if error is None else found.endswith(error)
