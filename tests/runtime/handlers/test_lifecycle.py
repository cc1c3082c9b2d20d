"""Handlers answer warming events, and prepare for snapshots."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from inference_runtime.lifecycle import MAX_HOLD_MS, answers_warming

RUNTIME = Path(__file__).parents[3] / "lambda_src"

# The part of the package that functions and Lambda's client use, and in what order that client uses it:
# github.com/aws/snapshot-restore-py, and lambda_runtime_hooks_runner.py of aws-lambda-python-runtime-interface-client.
SNAPSHOT_RESTORE = """
before, after = [], []

def register_before_snapshot(func, *args, **kwargs):
    before.append((func, args, kwargs))
    return func

def register_after_restore(func, *args, **kwargs):
    after.append((func, args, kwargs))
    return func

def run_before_snapshot():
    while before:
        func, args, kwargs = before.pop()
        func(*args, **kwargs)

def run_after_restore():
    for func, args, kwargs in after:
        func(*args, **kwargs)
"""


def run(code, tmp_path, initialization):
    """Run code in a fresh process, as Lambda initializes an environment of this kind, and return what it prints."""
    (tmp_path / "snapshot_restore_py.py").write_text(SNAPSHOT_RESTORE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [RUNTIME, tmp_path]))}
    environment.pop("AWS_LAMBDA_INITIALIZATION_TYPE", None)
    if initialization:
        environment["AWS_LAMBDA_INITIALIZATION_TYPE"] = initialization
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


STAGE = """
    from inference_runtime.lifecycle import after_restore, answers_warming, before_snapshot, prepare

    prepare(lambda: print("prepared"))
    before_snapshot(lambda: print("first-closed"))
    before_snapshot(lambda: print("second-closed"))
    after_restore(lambda: print("first-reset"))
    after_restore(lambda: print("second-reset"))
    print("initialized")

    @answers_warming
    def handler(event, context):
        print("handled")
"""


def test_a_snapshot_is_prepared_and_what_begins_with_it_is_reset(tmp_path):
    code = (
        STAGE
        + """
    import snapshot_restore_py
    snapshot_restore_py.run_before_snapshot()
    print("snapshot")
    snapshot_restore_py.run_after_restore()
    handler({}, None)
    """
    )
    assert run(code, tmp_path, "snap-start") == [
        *("initialized", "prepared", "second-closed", "first-closed", "snapshot"),
        *("first-reset", "second-reset", "handled"),
    ]


@pytest.mark.parametrize("engine", ["c_api", "python"])
@pytest.mark.parametrize(
    ("initialization", "printed"),
    [
        ("snap-start", ["initialized", "ran", "snapshot", "answered"]),
        ("provisioned-concurrency", ["ran", "initialized", "snapshot", "answered"]),
        ("on-demand", ["initialized", "snapshot", "answered"]),
    ],
)
def test_the_model_is_run_before_the_first_request_where_nobody_waits(tmp_path, engine, initialization, printed):
    """The inference function's own handler, with a model of two inputs and a free dimension."""
    kinds = {"x": TensorProto.FLOAT, "words": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", "free", 2]) for name, kind in kinds.items()]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["words"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "cast"], ["y"]),
        ],
        "sum",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "free", 2])],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    code = f"""
    import os
    os.environ |= {{"LAMBDA_TASK_ROOT": {str(tmp_path)!r}, "MODEL_VERSION": "1", "WORK_BUCKET": "none"}}
    os.environ |= {{"INFERENCE_ENGINE": {engine!r}}}
    from inference_runtime.engine.engine import LocalEngine
    infer = LocalEngine.infer
    LocalEngine.infer = lambda self, inputs: (infer(self, inputs), print("ran"))[0]
    from inference_runtime.handlers.infer import handler
    print("initialized")
    import snapshot_restore_py
    snapshot_restore_py.run_before_snapshot()
    print("snapshot")
    snapshot_restore_py.run_after_restore()
    assert handler({{"groups": []}}, None)["groups"] == []
    print("answered")
    """
    assert run(code, tmp_path, initialization) == printed


def test_on_demand_nothing_is_registered_or_prepared(tmp_path):
    code = (
        STAGE
        + """
    import snapshot_restore_py
    print(len(snapshot_restore_py.before) + len(snapshot_restore_py.after))
    handler({}, None)
    """
    )
    assert run(code, tmp_path, "on-demand") == ["initialized", "0", "handled"]


def test_a_provisioned_environment_is_prepared_while_it_initializes(tmp_path):
    assert run(STAGE, tmp_path, "provisioned-concurrency") == ["prepared", "initialized"]


@pytest.mark.parametrize("initialization", ["on-demand", "lambda-managed-instances", None])
def test_the_first_warming_event_prepares(tmp_path, initialization):
    code = (
        STAGE
        + """
    for _ in range(2):
        print(handler({"cdk-inference": "warm"}, None) == {"warm": True})
    """
    )
    assert run(code, tmp_path, initialization) == ["initialized", "prepared", "True", "True"]


@pytest.mark.parametrize("initialization", ["snap-start", "provisioned-concurrency", "on-demand"])
def test_a_preparation_that_fails_is_logged_and_fails_nothing(tmp_path, initialization):
    code = """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s")
    from inference_runtime.lifecycle import answers_warming, prepare
    prepare(lambda: 1 / 0)
    prepare(lambda: print("another"))
    import snapshot_restore_py
    snapshot_restore_py.run_before_snapshot()
    print(answers_warming(lambda event, context: None)({"cdk-inference": "warm"}, None))
    """
    printed = run(code, tmp_path, initialization)
    assert printed[0] == "WARNING"
    assert "ZeroDivisionError:" in printed
    assert printed[-3:] == ["another", "{'warm':", "True}"]


def test_connections_that_do_not_close_fail_the_snapshot(tmp_path):
    code = """
    from inference_runtime.lifecycle import before_snapshot
    before_snapshot(lambda: 1 / 0)
    import snapshot_restore_py
    try:
        snapshot_restore_py.run_before_snapshot()
    except ZeroDivisionError:
        print("failed")
    """
    assert run(code, tmp_path, "snap-start") == ["failed"]


def test_random_numbers_are_each_environments_own(tmp_path):
    """Fork twice from one state, as environments are made from one snapshot."""
    code = """
    import os, random, sys
    import numpy
    from inference_runtime import lifecycle
    import snapshot_restore_py
    random.seed(1)
    numpy.random.seed(1)
    snapshot_restore_py.run_before_snapshot()
    for _ in range(2):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            snapshot_restore_py.run_after_restore()
            print(random.random(), numpy.random.random())
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
    """
    drawn = run(code, tmp_path, "snap-start")
    assert len(drawn) == 4
    assert len(set(drawn)) == 4


def test_the_import_is_cheap(tmp_path):
    """Nothing that Lambda's own client has not imported anyway, and nothing that is not there outside of Lambda."""
    code = """
    import __future__, functools, json, logging, os, time, traceback, types, typing
    import sys
    before = set(sys.modules)
    import inference_runtime.lifecycle
    print(*sorted(set(sys.modules) - before))
    """
    modules = [name for name in run(code, tmp_path, None) if not name.startswith("inference_runtime")]
    assert modules == []


HANDLERS = sorted(
    path for path in (RUNTIME / "inference_runtime" / "handlers").glob("*.py") if "def handler(" in path.read_text()
)


@pytest.mark.parametrize("path", HANDLERS, ids=lambda path: path.stem)
def test_every_handler_answers_warming_events_before_all_else(path):
    (function,) = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "handler"
    ]
    assert ast.unparse(function.decorator_list[0]) == "answers_warming"


@answers_warming
def handler(event, context):
    """Work."""
    return {"event": event, "context": context}


def test_what_is_no_warming_event_is_handled():
    for event in ({}, {"groups": []}, {"cdk-inference": "cold"}, {"warm": True}, [], None, "warm"):
        assert handler(event, 7) == {"event": event, "context": 7}
    assert (handler.__name__, handler.__doc__) == ("handler", "Work.")


@given(
    st.one_of(
        st.none(), st.booleans(), st.floats(max_value=3), st.integers(max_value=3), st.text(), st.lists(st.integers())
    )
)
def test_a_warming_event_never_fails_whatever_it_asks_for(hold_ms):
    assert handler({"cdk-inference": "warm", "hold_ms": hold_ms}, None) == {"warm": True}


def test_a_warming_event_is_held_for_so_long(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for hold_ms in (500, 0.5, 10**9, 0, -1):
        handler({"cdk-inference": "warm", "hold_ms": hold_ms}, None)
    assert slept == [0.5, 0.0005, MAX_HOLD_MS / 1000, 0, 0]


def test_the_events_of_the_schedule_are_the_ones_that_are_answered():
    """The constructs and the runtime know nothing of each other; this is what they agree on."""
    source = (RUNTIME.parent / "constructs/cdk_inference/capacity/keep_warm.py").read_text()
    assert json.dumps({"cdk-inference": "warm"}) in source
