"""Histories of executions that tell, as in AWS, of the states inside of Map and Parallel states too.

MiniStack runs those without a trace. Each event names the one before it, so that the events of items that are processed
side by side can be told apart.

Runs in the process of the embedded AWS, next to `_ministack.py`.
"""

from __future__ import annotations

import copy
import json
import threading
from contextvars import ContextVar
from typing import Any, NamedTuple


class _Place(NamedTuple):
    """Where a thread is in an execution: the last event that it added, and the type of the state around it."""

    execution: str = ""
    event: int = 0
    state: str = ""


_NOWHERE = _Place()
_place: ContextVar[_Place] = ContextVar("_place")
_adding = threading.Lock()  # items of one execution add events at the same time


def install() -> None:
    """Let MiniStack add the events that it leaves out."""
    from ministack.services import stepfunctions as sfn  # noqa: PLC0415

    add = sfn._add_event

    def add_event(execution: dict[str, Any], kind: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        arn, before = execution["executionArn"], _place.get(_NOWHERE)
        same = before if before.execution == arn else _Place(arn)
        with _adding:
            added: dict[str, Any] = add(execution, kind, {"previousEventId": same.event, **(details or {})})
        entered = kind.removesuffix("StateEntered") if kind.endswith("StateEntered") else same.state
        _place.set(_Place(arn, added["id"], entered))
        return added

    def run_sub_machine(states: dict[str, Any], start: str, given: Any, execution: dict[str, Any], ctx: Any) -> Any:  # noqa: ANN401
        around = _place.get(_NOWHERE)
        of = {"name": ctx["State"]["Name"], "index": ctx.get("Map", {}).get("Item", {}).get("Index", 0)}
        in_map = around.execution == execution["executionArn"] and around.state == "Map"

        def tell(what: str) -> None:
            if in_map:
                add_event(execution, f"MapIteration{what}", {f"mapIteration{what}EventDetails": of})

        tell("Started")
        try:
            output = _run(sfn, states, start, given, execution, ctx)
        except Exception:
            tell("Failed")
            raise
        tell("Succeeded")
        return output

    sfn._add_event = add_event
    sfn._run_sub_machine = run_sub_machine


def _run(sfn: Any, states: dict[str, Any], start: str, given: Any, execution: dict[str, Any], ctx: Any) -> Any:  # noqa: ANN401
    """Run the states of an iteration or a branch as MiniStack does, and add when each is entered and exited."""
    name: str | None = start
    data = copy.deepcopy(given)
    while name:
        state = states.get(name)
        if state is None:
            raise sfn._ExecutionError("States.Runtime", f"State '{name}' not found")
        kind = str(state.get("Type"))
        ctx["State"] = {"Name": name, "EnteredTime": sfn.now_iso(), "RetryCount": 0}
        told = {"name": name, "input": json.dumps(data)}
        sfn._add_event(execution, f"{kind}StateEntered", {"stateEnteredEventDetails": told})
        after = None
        if kind == "Succeed":
            data = sfn._apply_output_path(state, sfn._apply_input_path(state, data, ctx), ctx)
        elif kind == "Fail":
            raise sfn._ExecutionError(*sfn._fail_state_error(state, data, ctx))
        elif kind in ("Pass", "Choice", "Wait"):
            data, after = getattr(sfn, f"_execute_{kind.lower()}")(state, data, ctx)
        elif kind in ("Task", "Parallel", "Map"):
            data, after = getattr(sfn, f"_execute_{kind.lower()}")(state, data, execution, ctx)
        else:
            raise sfn._ExecutionError("States.Runtime", f"Unknown state type: {kind}")
        told = {"name": name, "output": json.dumps(data)}
        sfn._add_event(execution, f"{kind}StateExited", {"stateExitedEventDetails": told})
        name = after
    return data
