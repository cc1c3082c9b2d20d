"""The executions of a pipeline's state machines: where its objects are now, and how long each stage takes."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from cdk_inference.drawings import workflows
from cdk_inference.local.console.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cdk_inference.drawings.workflows import Workflow
    from cdk_inference.local.console.traces import Span, Trace

_LISTED = 100  # executions of a machine that a look lists
_READ = 25  # histories that a look reads at most, the newest first; a page shows no more anyway
_KEPT = 1000  # executions
_MEASURED = 2000  # visits of each stage
_PAGE = 1000  # events


class Machine:
    """A state machine, and which of its states call which function.

    Parameters
    ----------
    arn
        Its ARN.
    definition
        Its definition.
    functions
        The names that users know the functions by, by physical name.
    """

    def __init__(self, arn: str, definition: Mapping[str, Any], functions: Mapping[str, str]) -> None:
        self.arn = arn
        self.name = arn.rpartition(":")[2]
        # The longest first: a name may be the beginning of another.
        known = sorted(functions, key=len, reverse=True)
        self.workflow: Workflow = workflows.read(
            self.name, definition, lambda text, _: [name for name in known if f":{name}" in text or f'"{name}' in text]
        )
        self.stages: dict[str, str] = {
            name: functions[state.calls[0]]
            for name, state in self.workflow.states.items()
            if state.kind == "Task" and state.calls
        }


class Executions:
    """The newest executions of some state machines, each read once it has ended, and at each look until then.

    Parameters
    ----------
    states
        Client of Step Functions.
    machines
        ARNs of the state machines.
    functions
        The names that users know the functions by, by physical name.
    """

    def __init__(self, states: Any, machines: Sequence[str], functions: Mapping[str, str]) -> None:  # noqa: ANN401
        self._states = states
        self.machines = {arn: self._machine(arn, functions) for arn in machines}
        self._traces: OrderedDict[str, Trace] = OrderedDict()
        self._left_out: set[str] = set()
        self._of_key: dict[str, list[str]] = {}
        self.durations: dict[str, deque[int]] = {}

    def refresh(self) -> bool:
        """Look at the newest executions, and tell whether anything changed."""
        listed = []
        for arn in self.machines:
            listed += self._states.list_executions(stateMachineArn=arn, maxResults=_LISTED)["executions"]
        listed.sort(key=lambda each: each["startDate"], reverse=True)
        new = [each for each in listed if self._is_new(each["executionArn"])]
        for each in reversed(new[:_READ]):
            self._take(self.read(each["executionArn"]))
        # Only the rows tell of a burst of more than that.
        ended = {each["executionArn"] for each in new[_READ:] if each["status"] != "RUNNING"}
        self._left_out = (self._left_out | ended) & {each["executionArn"] for each in listed}
        return bool(new)

    def newest(self, most: int) -> list[Trace]:
        """Return the newest executions, the newest first."""
        return sorted(self._traces.values(), key=lambda trace: trace.started, reverse=True)[:most]

    def running(self) -> list[Trace]:
        """Return those that go on."""
        return [trace for trace in self._traces.values() if trace.running]

    def of(self, key: str) -> list[Trace]:
        """Return the executions that an object was in, the newest first."""
        found = [self._traces[arn] for arn in self._of_key.get(key, []) if arn in self._traces]
        return sorted(found, key=lambda trace: trace.started, reverse=True)

    def stage_times(self, key: str, until: int) -> dict[str, int]:
        """Return how long each stage took for an object, by the last execution that began before a moment.

        Parameters
        ----------
        key
            The object.
        until
            The moment, such as that of its row, in milliseconds since the epoch.
        """
        trace = next((one for one in self.of(key) if one.started <= until), None)
        if trace is None:
            return {}
        stages = self.machines[trace.machine].stages
        messages = [id for id, known in trace.objects.items() if known == key]
        times = {stages[span.state]: _length(span) for id in messages for span in trace.of(id) if span.state in stages}
        return {stage: length for stage, length in times.items() if length is not None}

    def positions(self) -> dict[str, list[str]]:
        """Return the keys of the objects that are in each stage now."""
        found: dict[str, list[str]] = {}
        for trace in self.running():
            stages = self.machines[trace.machine].stages
            first = next(iter(stages.values()), "")
            for id, key in trace.objects.items():
                visits = [span for span in trace.of(id) if span.state in stages]
                stage = stages[visits[-1].state] if visits else first
                found.setdefault(stage, []).append(key)
        return found

    def read(self, arn: str) -> Trace:
        """Read an execution from its history.

        Parameters
        ----------
        arn
            Its ARN.

        Raises
        ------
        botocore.exceptions.ClientError
            If there is none.
        """
        described = self._states.describe_execution(executionArn=arn)
        pages = self._states.get_paginator("get_execution_history").paginate(executionArn=arn, maxResults=_PAGE)
        return read_trace(described, (event for page in pages for event in page["events"]))

    def _machine(self, arn: str, functions: Mapping[str, str]) -> Machine:
        described = self._states.describe_state_machine(stateMachineArn=arn)
        return Machine(arn, json.loads(described["definition"]), functions)

    def _is_new(self, arn: str) -> bool:
        known = self._traces.get(arn)
        return arn not in self._left_out if known is None else known.running

    def _take(self, trace: Trace) -> None:
        if trace.arn not in self._traces:
            for key in dict.fromkeys(trace.objects.values()):
                self._of_key.setdefault(key, []).append(trace.arn)
        self._traces[trace.arn] = trace
        if not trace.running:
            stages = self.machines[trace.machine].stages
            for span in trace.spans:
                length = _length(span)
                if span.state in stages and length is not None:
                    kept = self.durations.setdefault(stages[span.state], deque(maxlen=_MEASURED))
                    kept.append(length)
        while len(self._traces) > _KEPT:
            arn, old = self._traces.popitem(last=False)
            for key in dict.fromkeys(old.objects.values()):
                left = [each for each in self._of_key[key] if each != arn]
                self._of_key.pop(key) if not left else self._of_key.update({key: left})


def _length(span: Span) -> int | None:
    return None if span.left is None else span.left - span.entered
