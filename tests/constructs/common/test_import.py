"""An import changes nothing of the process; a function that the app may call hides tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UNCHANGED = """
import gc, sys
before = sys.excepthook, gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
import cdk_inference
for name in cdk_inference.__all__:
    getattr(cdk_inference, name)
assert before == (sys.excepthook, gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())
"""
FAILING = "import cdk_inference\n{}\nraise {}"


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CDK_OUTDIR"} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_an_import_leaves_the_hook_and_the_garbage_collector_alone():
    done = run(UNCHANGED, CDK_OUTDIR="out")  # as under the CLI
    assert done.returncode == 0, done.stderr


def test_an_error_is_one_line_under_the_cli_and_fails():
    code = FAILING.format("cdk_inference.hide_tracebacks()", "cdk_inference.PropError('a must be b, got c')")
    done = run(code, CDK_OUTDIR="out")
    assert (done.returncode, done.stderr) == (1, "error: a must be b, got c\n")


@pytest.mark.parametrize(
    ("call", "error", "variables"),
    [
        ("", "cdk_inference.PropError('why')", {"CDK_OUTDIR": "out"}),
        ("cdk_inference.hide_tracebacks()", "cdk_inference.PropError('why')", {}),
        ("cdk_inference.hide_tracebacks()", "ValueError('why')", {"CDK_OUTDIR": "out"}),
    ],
    ids=["not-called", "without-the-cli", "of-others"],
)
def test_other_errors_keep_their_traceback_and_fail(call, error, variables):
    done = run(FAILING.format(call, error), **variables)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "Error: why" in done.stderr
