"""Errors of user code in logs: whose they are, and where in the user's code they were raised."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.local.failures import Failure, logged_errors, own_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = "/any/ministack-lambda-Stack-Score-1/code/"
RUNTIME = "inference_runtime/stages/preprocessor.py"
USER = "def stage(): return {}['label']\n"
HEAD = "Traceback (most recent call last):"


def raised(user: str, *, runtime: str = "def call(stage): return stage()\n", frames: str = RUNTIME) -> list[str]:
    """Return the lines of the traceback of a stage that the runtime calls, as they are in a package."""
    names: dict[str, Callable[..., object]] = {}
    for code, name in ((user, "stages/photos.py"), (runtime, frames)):
        exec(compile(code, CODE + name, "exec"), names)  # noqa: S102
    try:
        names["call"](names["stage"])
    except Exception:
        return traceback.format_exc().splitlines()
    raise AssertionError


def test_only_frames_of_user_code_are_shown() -> None:
    lines = raised("import json\ndef stage(): return inner()\ndef inner(): return json.loads('{')\n")
    text = own_traceback("\n".join(lines), lambda name: f"src/{name}")
    shown = [line for line in text.splitlines() if line.startswith("  File ")]
    assert shown[:2] == [
        '  File "src/stages/photos.py", line 2, in stage',
        '  File "src/stages/photos.py", line 3, in inner',
    ]
    assert "decoder.py" in shown[-1]  # Python's own, which user code called
    assert text.splitlines()[0] == HEAD
    assert text.splitlines()[-1].startswith("json.decoder.JSONDecodeError: ")


def test_of_chained_errors_those_with_user_code_are_shown() -> None:
    wrap = "def call(stage):\n    try: stage()\n    except KeyError as error: raise TypeError('runtime') from error\n"
    assert own_traceback("\n".join(raised(USER, runtime=wrap))).splitlines()[-1] == "KeyError: 'label'"
    again = "def stage():\n    try: {}['label']\n    except KeyError: raise ValueError('no\\n  label')\n"
    text = own_traceback("\n".join(raised(again)))
    assert "KeyError: 'label'\n\nDuring handling of the above exception:\n\nTraceback" in text
    assert text.endswith("\nValueError: no\n  label")


def test_an_error_without_user_code_is_shown_without_a_traceback() -> None:
    lines = raised("def stage(): pass\n", runtime="def call(stage): raise OSError('disk full')\n")
    assert own_traceback("\n".join(lines)) == "OSError: disk full"
    assert own_traceback("ProcessDiedError: killed by SIGSEGV") == "ProcessDiedError: killed by SIGSEGV"


GROUP = """\
def stage():
    try:
        raise ExceptionGroup('two of them', [ValueError('one'), ExceptionGroup('more', [inner()])])
    except ExceptionGroup as error:
        raise error
def inner():
    try: {}['label']
    except KeyError as error: return error
"""


def test_a_group_of_exceptions_is_shown_with_all_of_them() -> None:
    lines = raised(GROUP)
    assert lines[0] == "  + Exception Group Traceback (most recent call last):"
    text = own_traceback("\n".join(lines), lambda name: f"src/{name}")
    assert text.splitlines()[0] == lines[0]
    assert '\n  |   File "src/stages/photos.py", line 5, in stage\n' in text
    assert 'File "src/stages/photos.py", line 7, in inner' in text
    assert [
        each for each in ("ValueError: one", "KeyError: 'label'", "more (1 sub-exception)") if each not in text
    ] == []
    assert "inference_runtime" not in text
    assert Failure(1, "App/Score", (), text, "").error == "ExceptionGroup: two of them (2 sub-exceptions)"
    caught = own_traceback("\n".join(raised(GROUP.replace("raise error", "raise TypeError('t') from error"))))
    assert "KeyError: 'label'" in caught
    assert Failure(1, "App/Score", (), caught, "").error == "TypeError: t"


def test_a_group_of_exceptions_that_nobody_caught_is_found_in_a_log() -> None:
    lines = raised(GROUP, frames="../_worker.py")
    del lines[1 : next(number for number, line in enumerate(lines) if "_worker.py" in line)]
    failed = "preprocessing failed: s3://bucket/a.jpg, item 0af3, message m-1: two of them (2 sub-exceptions)"
    found = logged_errors(["START RequestId: 1", *lines, failed, *raised(GROUP), "END RequestId: 1"])
    assert [each.key for each in found] == [None, "a.jpg"]
    assert all(each.text.splitlines()[0] == lines[0] for each in found)


def test_errors_are_told_apart_in_the_log_of_an_invocation() -> None:
    trace = raised(USER)
    failed = "preprocessing failed: s3://bucket/a folder/b, c.jpg, item 0af3, message m-{}: {}"
    unhandled = raised(USER, frames="../_worker.py")
    del unhandled[1 : next(number for number, line in enumerate(unhandled) if "_worker.py" in line)]
    row = {"level": "ERROR", "object_key": "bucket/in/x.jpg", "message_id": "m-3", "exception": "\n".join(trace)}
    lines = [
        "START RequestId: 1",
        "the user's own line",
        *trace,  # which the user's code has logged and caught
        failed.format(1, "'label'"),
        *trace,
        failed.format(2, "ProcessDiedError: ended with exit status 1"),
        json.dumps({"level": "INFO", "message": "fine", "exception": "none"}),
        json.dumps(row),
        "[ERROR] Worker init failed: No module named 'x'",
        *[*trace, "", "The above exception was the direct cause of the following exception:", "", *unhandled],
        *unhandled,
        "END RequestId: 1",
        "REPORT RequestId: 1",
    ]
    found = logged_errors(lines)
    assert [(each.key, each.message_id) for each in found] == [
        ("a folder/b, c.jpg", "m-1"),
        ("a folder/b, c.jpg", "m-2"),
        ("in/x.jpg", "m-3"),
        (None, None),
        (None, None),
    ]
    assert [own_traceback(each.text).splitlines()[-1] for each in found] == [
        "KeyError: 'label'",
        "ProcessDiedError: ended with exit status 1",
        *["KeyError: 'label'"] * 3,
    ]


@given(st.lists(st.sampled_from([HEAD, "{", '{"level": "ERROR", "exception": 1}', "  File", ""]) | st.text()))
def test_any_log_is_read(lines: list[str]) -> None:
    for each in logged_errors([*lines, "preprocessing failed: s3://b/k, item 1, message m: x"]):
        own_traceback(each.text)
    own_traceback("\n".join([HEAD, *lines]))


def test_what_was_told_before_takes_a_line() -> None:
    text = own_traceback("\n".join(raised(USER)))
    first = Failure(1, "App/Score", ("a.jpg",), text, "tried again in 1 s, 1 of 10")
    assert str(first) == f"a.jpg failed in App/Score; tried again in 1 s, 1 of 10\n{text}"
    second = Failure(2, "App/Score", ("a.jpg",), text, "a dead letter now", again=True)
    assert str(second) == "a.jpg failed again in App/Score: KeyError: 'label'; a dead letter now"
    third = Failure(3, "App/Score", (), "x", "each is tried 10 times")
    assert str(third) == "every object failed in App/Score; each is tried 10 times\nx"
