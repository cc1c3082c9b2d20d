"""Items that take too long in the function's own process: they fail by themselves, and their keys are in the log."""

from __future__ import annotations

import json
import math
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.invocation import Context
from tests.waiting import wait_until

from inference_runtime import aws
from inference_runtime.stages import deadline, preprocessor
from inference_runtime.stages.time_limit import TookTooLongError, call_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Inbox

SLOW = """
    import threading
    import time

    import numpy as np

    go_on = threading.Event()

    def function(data, item):
        if item.key.startswith("spin"):
            while True:
                pass
        if item.key.startswith("sleep"):
            time.sleep(3600)
        if item.key.startswith("wait"):
            go_on.wait()
        return np.zeros(2, np.float32)
"""


@pytest.fixture
def handler(
    environment: pytest.MonkeyPatch, bucket: str, stage: Callable[[str], str], load: Callable[[str], Any]
) -> Callable[..., Any]:
    """The preprocessing function around slow code; `handler.module` is that code's name."""
    environment.setenv("MODEL_INPUTS", json.dumps([{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]))
    name = stage(SLOW)
    handler = load("preprocess")

    def call(messages: list[Any], seconds: float) -> Any:
        return json.loads(json.dumps(handler({"messages": messages}, Context(seconds))))

    call.module = name  # type: ignore[attr-defined]
    return call


def scored(response: dict[str, Any]) -> list[str]:
    return [response["items"][index]["key"] for group in response["groups"] for index in group["indices"]]


@pytest.mark.parametrize("slow", [4, 8])
def test_slow_items_fail_and_the_others_are_scored(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slow: int
) -> None:
    environment.setattr(deadline, "_LARGEST_SHARE", 0.005)
    keys = [f"{'spin' if n % 2 else 'sleep'} {n}" if n < slow else f"good {n}" for n in range(32)]
    messages = {key: inbox.put(key, b"x") for key in keys}
    response = handler(list(messages.values()), 300)
    assert scored(response) == keys[slow:]
    assert [each["message_id"] for each in response["failed"]] == [messages[key]["message_id"] for key in keys[:slow]]
    assert {each["error"] for each in response["failed"]} == {"TookTooLongError"}
    assert {each["cause"] for each in response["failed"]} == {"took longer than 1.3 s"}
    assert response["retry"] == response["unfinished"] == []
    for key in keys[:slow]:
        assert f"s3://{inbox.bucket}/{key}, item " in caplog.text


def test_when_time_runs_low_the_rest_is_not_begun(handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(deadline, "_LARGEST_SHARE", 0.3)
    messages = [inbox.put(f"spin {n}", b"x") for n in range(8)]
    response = handler(messages, 8)
    failed = [each["message_id"] for each in response["failed"]]
    assert 1 <= len(failed) <= 3  # a fourth turn would not be a whole one
    assert failed + response["unfinished"] == [message["message_id"] for message in messages]


def test_a_single_slow_item_fails_however_late_it_began(handler: Any, inbox: Inbox) -> None:
    message = inbox.put("spin", b"x")
    response = handler([message], 5)
    assert [each["message_id"] for each in response["failed"]] == [message["message_id"]]


def test_without_signals_the_key_of_an_item_that_hangs_is_logged_before_the_time_is_over(
    handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [inbox.put("wait", b"x"), inbox.put("good", b"x")]
    responses: list[Any] = []
    thread = threading.Thread(target=lambda: responses.append(handler(messages, 6)), daemon=True)
    thread.start()
    wait_until(lambda: "still preprocessing" in caplog.text)
    sys.modules[handler.module].go_on.set()
    thread.join()
    assert f"still preprocessing s3://{inbox.bucket}/wait, item " in caplog.text
    assert messages[0]["message_id"] in caplog.text
    [response] = responses
    assert scored(response) == ["wait"]
    assert response["unfinished"] == [messages[1]["message_id"]]


def test_an_item_that_is_done_is_not_logged(handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    assert scored(handler([inbox.put("good", b"x")], 60)) == ["good"]
    watch = preprocessor._Watch(0)
    watch.close()
    wait_until(lambda: threading.active_count() <= before)
    assert caplog.text == ""


def test_s3_that_hangs_does_not_end_the_invocation(
    environment: pytest.MonkeyPatch, handler: Any, inbox: Inbox, load: Callable[[str], Any]
) -> None:
    environment.setattr(aws, "READ_TIMEOUT", 20)
    messages = [inbox.message(f"{n}") for n in range(12)]
    with socket.create_server(("127.0.0.1", 0)) as server:  # which never answers
        environment.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        slow = load("preprocess")
        response = slow({"messages": messages}, Context(2))
    ids = [message["message_id"] for message in messages]
    assert response["retry"] + response["unfinished"] == ids
    assert response["retry"] == ids[:1]
    assert response["failed"] == []


def endless() -> None:
    while True:
        pass


@pytest.mark.parametrize("cpu", [False, True])
def test_a_call_that_takes_too_long_ends(cpu: bool) -> None:
    with pytest.raises(TookTooLongError, match=r"took longer than 0\.05 s"):
        call_within(0.05, endless, cpu=cpu)
    assert call_within(600, lambda: 7, cpu=cpu) == 7


def test_a_call_that_swallows_its_interruption_ends() -> None:
    swallowed = []

    def stubborn() -> None:
        while True:
            try:
                endless()
            except BaseException as error:
                swallowed.append(error)
                if len(swallowed) > 1:
                    raise

    with pytest.raises(TookTooLongError):
        call_within(0.05, stubborn)
    assert len(swallowed) == 2


def test_the_inner_of_two_limits_ends_only_its_own_call() -> None:
    def inner() -> str:
        with pytest.raises(TookTooLongError, match=r"took longer than 0\.05 s"):
            call_within(0.05, endless, cpu=True)
        return "goes on"

    assert call_within(600, inner) == "goes on"
    with pytest.raises(TookTooLongError, match=r"took longer than 0\.06 s"):
        call_within(0.06, lambda: call_within(600, endless, cpu=True))


@pytest.mark.parametrize("cpu", [False, True])
def test_nothing_is_left_of_a_limit(cpu: bool) -> None:
    number, timer = (signal.SIGPROF, signal.ITIMER_PROF) if cpu else (signal.SIGALRM, signal.ITIMER_REAL)
    before = signal.getsignal(number)
    call_within(600, lambda: None, cpu=cpu)
    with pytest.raises(TookTooLongError):
        call_within(0.05, endless, cpu=cpu)
    assert signal.getsignal(number) is before
    assert signal.getitimer(timer) == (0, 0)


def test_in_another_thread_there_is_no_limit() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(call_within(0.001, lambda: time.sleep(0.05) or "done")))
    thread.start()
    thread.join()
    assert found == ["done"]


def test_without_an_end_there_is_no_limit() -> None:
    assert call_within(math.inf, lambda: "done") == "done"
