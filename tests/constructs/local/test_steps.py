"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cdk_inference.local.steps import Steps


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    with Steps(Console(file=stream, force_terminal=terminal, width=100)) as steps:
        steps.begin("synthesizing the app")
        steps.line("model [cnn]: quantize")
        steps.begin("deploying")
    return stream.getvalue()


def test_a_log_gets_quiet_lines() -> None:
    lines = re.sub(r"\d+\.\d", "N", shown(terminal=False)).splitlines()
    assert lines == [
        "synthesizing the app ...",
        "synthesizing the app: done after N s",
        "deploying ...",
        "deploying: done after N s",
    ]


def test_steps_of_a_plan_say_which_of_how_many_they_are() -> None:
    stream = io.StringIO()
    with Steps(Console(file=stream), ("synthesizing", "deploying")) as steps:
        for step in ("synthesizing [the] app", "bootstrapping", "deploying 5.0 MB of assets"):
            steps.begin(step)
    begun = [line for line in stream.getvalue().splitlines() if line.endswith(" ...")]
    assert begun == ["1/2 synthesizing [the] app ...", "bootstrapping ...", "2/2 deploying 5.0 MB of assets ..."]


def test_a_terminal_gets_the_seconds_and_the_last_line() -> None:
    output = shown(terminal=True)
    assert "0:00:00" in output
    assert "model [cnn]: quantize" in output
    assert "deploying: done after" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def test_a_long_line_leaves_room_for_the_step_and_its_seconds() -> None:
    stream = io.StringIO()
    with Steps(Console(file=stream, force_terminal=True, width=100)) as steps:
        steps.begin("labelling 20 photographs")
        steps.line("5 of 8 objects have a row; last error: " + 100 * "KeyError ")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert re.search(r"labelling 20 photographs 0:00:\d\d 5 of 8 objects have a row; last error: KeyError .*…", shown)


def test_a_step_that_fails_is_told() -> None:
    stream = io.StringIO()

    def deploy() -> None:
        with Steps(Console(file=stream)) as steps:
            steps.begin("deploying")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        deploy()
    assert "deploying: failed after" in stream.getvalue()


def test_steps_that_have_ended_have_seconds() -> None:
    with Steps(Console(file=io.StringIO())) as steps:
        steps.begin("synthesizing the app")
        steps.begin("deploying")
        assert list(steps.seconds) == ["synthesizing the app"]
    assert list(steps.seconds) == ["synthesizing the app", "deploying"]
    assert min(steps.seconds.values()) >= 0
