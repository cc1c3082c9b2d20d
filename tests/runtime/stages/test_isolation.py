"""Items that crash, hang or take all memory end alone, and their keys are in the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.invocation import Clock, Context
from tests.waiting import wait_until

from inference_runtime.errors import RetryableError
from inference_runtime.stages import deadline
from inference_runtime.stages.isolation import Isolation
from inference_runtime.stages.time_limit import TookTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Inbox
    from inference_runtime.stages.item import Item

HOSTILE = """
    import ctypes
    import json
    import os
    import sys
    import time

    import numpy as np

    from inference_runtime import RejectItem

    broken = False

    def function(data, item):
        global broken
        if broken:
            os.abort()
        if item.key == "segfault":
            ctypes.string_at(0)
        if item.key == "abort":
            os.abort()
        if item.key == "exit":
            os._exit(3)
        if item.key == "system exit":
            sys.exit("no more")
        if item.key == "hang":
            ctypes.PyDLL(None).pause()  # keeps Python's lock
        if item.key == "sleep":
            time.sleep(3600)
        if item.key == "bug":
            raise IndexError("a bug")
        if item.key == "type":
            return np.zeros(2)
        if item.key == "refuse":
            raise RejectItem("as it was told")
        if item.key == "memory":
            taken = []
            while True:
                taken.append(np.ones(2**21))
        if item.key == "breaks":
            broken = True
        print("says", item.key)
        return np.array([len(data), os.getpid() != int(os.environ["PARENT"])], np.float32)
"""

HANGING = ("hang", "sleep")


@pytest.fixture
def handler(
    environment: pytest.MonkeyPatch, bucket: str, stage: Callable[[str], str], load: Callable[[str], Any]
) -> Callable[..., Any]:
    """The preprocessing function around hostile code, with much time for all items but those that hang."""
    environment.setenv("PARENT", str(os.getpid()))
    environment.setenv("MODEL_INPUTS", json.dumps([{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]))
    inputs = Isolation.inputs

    def inputs_within(isolation: Isolation, data: bytes, item: Item, seconds: float) -> Any:
        return inputs(isolation, data, item, 1.0 if item.key in HANGING else seconds)

    environment.setattr(Isolation, "inputs", inputs_within)
    stage(HOSTILE)
    handler = load("preprocess")

    def call(messages: list[Any], **more: Any) -> Any:
        return json.loads(json.dumps(handler({"messages": messages, "isolate": True, **more}, Context(1200))))

    return call


def scored(response: dict[str, Any]) -> list[str]:
    return [response["items"][index]["key"] for group in response["groups"] for index in group["indices"]]


def causes(response: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["message_id"]: (each["error"], each["cause"]) for each in response["failed"]}


def test_each_item_that_kills_its_process_fails_alone(
    handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = ["good 1", "segfault", "good 2", "abort", "good 3", "exit", "good 4", "system exit", "good 5"]
    messages = {key: inbox.put(key, b"12345") for key in keys}
    response = handler(list(messages.values()))

    assert scored(response) == [f"good {n}" for n in range(1, 6)]
    assert causes(response) == {
        messages["segfault"]["message_id"]: ("ProcessDiedError", "killed by SIGSEGV"),
        messages["abort"]["message_id"]: ("ProcessDiedError", "killed by SIGABRT"),
        messages["exit"]["message_id"]: ("ProcessDiedError", "ended with exit status 3"),
        messages["system exit"]["message_id"]: ("ProcessDiedError", "ended with exit status 1"),
    }
    assert response["retry"] == response["unfinished"] == response["rejected"] == []
    for key in ("segfault", "abort", "exit"):
        assert f"s3://{inbox.bucket}/{key}" in caplog.text
        assert messages[key]["message_id"] in caplog.text
    out, err = capfd.readouterr()
    assert out == ""
    assert "says good 5" in err
    assert "Fatal Python error: Segmentation fault" in err


def test_an_item_that_hangs_in_c_fails_alone(handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    messages = {key: inbox.put(key, b"12345") for key in ("good 1", "hang", "good 2", "sleep", "good 3")}
    response = handler(list(messages.values()))
    assert scored(response) == ["good 1", "good 2", "good 3"]
    too_long = ("TookTooLongError", "took longer than 1 s")
    assert causes(response) == {messages[key]["message_id"]: too_long for key in HANGING}
    assert f"s3://{inbox.bucket}/hang" in caplog.text


def test_values_errors_and_rejections_are_those_of_the_same_process(
    handler: Any, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    messages = {key: inbox.put(key, b"12345") for key in ("good", "bug", "type", "refuse", "also good")}
    isolated = handler(list(messages.values()))
    direct = handler(list(messages.values()), isolate=False)

    without = {"groups": None}
    assert isolated | without == direct | without
    assert scored(isolated) == ["good", "also good"]
    assert [each["reason"] for each in isolated["rejected"]] == ["as it was told"]
    assert causes(isolated)[messages["bug"]["message_id"]] == ("IndexError", "a bug")
    assert causes(isolated)[messages["type"]["message_id"]][0] == "StageError"
    values = {name: group["groups"][0]["inputs"]["x"]["data"] for name, group in [("i", isolated), ("d", direct)]}
    assert values["i"] != values["d"]  # which says in which process it was made
    assert "Traceback" in caplog.text


def test_an_item_that_takes_all_memory_fails_alone(handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    messages = {key: inbox.put(key, b"12345") for key in ("good 1", "memory", "good 2")}
    response = handler(list(messages.values()))
    assert scored(response) == ["good 1", "good 2"]
    assert [error for error, _ in causes(response).values()] == ["MemoryError"]


def test_an_item_does_not_fail_because_an_earlier_one_broke_the_process(handler: Any, inbox: Inbox) -> None:
    response = handler([inbox.put(key, b"12345") for key in ("breaks", "innocent", "also innocent")])
    assert scored(response) == ["breaks", "innocent", "also innocent"]
    assert response["failed"] == []


def test_items_that_were_not_begun_in_time_are_told_apart(
    load: Callable[[str], Any], stage: Callable[[str], str], inbox: Inbox, environment: pytest.MonkeyPatch
) -> None:
    clock = Clock(environment)

    def hang(_: Isolation, data: bytes, item: Item, seconds: float) -> None:
        clock.now += seconds
        raise TookTooLongError(seconds)

    environment.setattr(Isolation, "inputs", hang)
    environment.setattr(deadline, "_LARGEST_SHARE", 0.33)
    environment.setenv("MODEL_INPUTS", "[]")
    stage("def function(data, item): return {}")
    messages = [inbox.put(f"{number}", b"1") for number in range(8)]
    response = load("preprocess")({"messages": messages, "isolate": True}, clock.context(1000))
    ids = [message["message_id"] for message in messages]
    assert [each["message_id"] for each in response["failed"]] == ids[:3]
    assert response["unfinished"] == ids[3:]


def test_user_code_that_does_not_load_in_the_process_fails_as_retryable(
    handler: Any, inbox: Inbox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("STAGE_FUNCTION", "no_such_module:function")
    with pytest.raises(RetryableError, match=r"does not start.*no_such_module"):
        handler([inbox.put("good", b"1")])


def test_the_process_ends_with_the_batch_and_with_its_parent(
    environment: pytest.MonkeyPatch, stage: Callable[[str], str], tmp_path: Path
) -> None:
    stage(
        """
        import ctypes
        import os
        from pathlib import Path

        def function(data, item):
            Path(data.decode()).write_text(str(os.getpid()))
            ctypes.PyDLL(None).pause()
        """
    )
    environment.setenv("MODEL_INPUTS", "[]")
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(tmp_path)!r})
            from inference_runtime.stages.isolation import Isolation
            from inference_runtime.stages.item import Item
            isolation = Isolation("STAGE", lambda: 600.0)
            item = Item("id", "bucket", "key", None, "etag", 1, "0", "", "message")
            isolation.inputs(b"{tmp_path}/pid", item, 600.0)
            """
        )
    )
    environment.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with subprocess.Popen([sys.executable, str(script)]) as parent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        child = int((tmp_path / "pid").read_text())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child))


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
