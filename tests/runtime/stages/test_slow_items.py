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
from tests.runtime.invocation import Clock, Context
from tests.waiting import PATIENCE, wait_until

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

    begun, go_on = threading.Event(), threading.Event()

    def function(data, item):
        if item.key.startswith("spin"):
            while True:
                pass
        if item.key.startswith("sleep"):
            time.sleep(3600)
        if item.key.startswith("wait"):
            begun.set()
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

    def call(messages: list[Any], context: Any) -> Any:
        return json.loads(json.dumps(handler({"messages": messages}, context)))

    call.module = name  # type: ignore[attr-defined]
    return call


def scored(response: dict[str, Any]) -> list[str]:
    return [response["items"][index]["key"] for group in response["groups"] for index in group["indices"]]


def test_slow_items_fail_and_the_others_are_scored(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setattr(deadline, "_LARGEST_SHARE", 0.005)
    keys = ["spin 0", *(f"sleep {n}" for n in range(1, 4)), *(f"good {n}" for n in range(4, 32))]
    messages = {key: inbox.put(key, b"x") for key in keys}
    response = handler(list(messages.values()), Context(300))
    assert scored(response) == keys[4:]
    assert [each["message_id"] for each in response["failed"]] == [messages[key]["message_id"] for key in keys[:4]]
    assert {each["error"] for each in response["failed"]} == {"TookTooLongError"}
    assert {each["cause"] for each in response["failed"]} == {"took longer than 1.3 s"}
    assert response["retry"] == response["unfinished"] == []
    for key in keys[:4]:
        assert f"s3://{inbox.bucket}/{key}, item " in caplog.text


@pytest.fixture
def played(environment: pytest.MonkeyPatch) -> Clock:
    """The clock, in which an item takes all the time that it gets."""
    clock = Clock(environment)

    def call_within(seconds: float, _: Callable[[], object]) -> None:
        clock.now += seconds
        raise TookTooLongError(seconds)

    environment.setattr(preprocessor, "call_within", call_within)
    return clock


def test_when_time_runs_low_the_rest_is_not_begun(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, played: Clock
) -> None:
    environment.setattr(deadline, "_LARGEST_SHARE", 0.33)
    messages = [inbox.put(f"slow {n}", b"x") for n in range(8)]
    ids = [message["message_id"] for message in messages]
    response = handler(messages, played.context(1000))
    assert [each["message_id"] for each in response["failed"]] == ids[:3]
    assert response["unfinished"] == ids[3:]


def test_an_item_that_was_not_given_enough_time_is_not_to_blame(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, played: Clock
) -> None:
    environment.setattr(deadline, "_LARGEST_SHARE", 0.6)
    messages = [inbox.put(f"slow {n}", b"x") for n in range(2)]
    response = handler(messages, played.context(1000))
    assert [each["message_id"] for each in response["failed"]] == [messages[0]["message_id"]]
    assert response["unfinished"] == [messages[1]["message_id"]]


def test_a_single_slow_item_fails_however_late_it_began(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, played: Clock
) -> None:
    read = preprocessor._result

    def read_slowly(*given: Any) -> Any:
        data = read(*given)
        played.now += 895
        return data

    environment.setattr(preprocessor, "_result", read_slowly)
    message = inbox.put("slow", b"x")
    response = handler([message], played.context(1000))
    assert [each["message_id"] for each in response["failed"]] == [message["message_id"]]
    assert played.now == pytest.approx((1000 - 1) * 0.9)


def test_without_signals_the_key_of_an_item_that_hangs_is_logged_before_the_time_is_over(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, timers = Clock(environment), []

    class Timer:
        """Goes off when the test says so."""

        def __init__(self, seconds: float, function: Callable[[], None]) -> None:
            timers.append((seconds, function))

        def start(self) -> None: ...
        def cancel(self) -> None: ...

    environment.setattr(preprocessor, "Timer", Timer)
    messages = [inbox.put("wait", b"x"), inbox.put("good", b"x")]
    responses: list[Any] = []
    thread = threading.Thread(target=lambda: responses.append(handler(messages, clock.context(600))), daemon=True)
    thread.start()
    code = sys.modules[handler.module]
    assert code.begun.wait(PATIENCE)
    ((seconds, log),) = timers
    assert seconds == 599
    clock.now += seconds
    log()
    code.go_on.set()
    thread.join()
    assert f"still preprocessing s3://{inbox.bucket}/wait, item " in caplog.text
    assert messages[0]["message_id"] in caplog.text
    [response] = responses
    assert scored(response) == ["wait"]
    assert response["unfinished"] == [messages[1]["message_id"]]


def test_an_item_that_is_done_is_not_logged(handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    assert scored(handler([inbox.put("good", b"x")], Context(600))) == ["good"]
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
