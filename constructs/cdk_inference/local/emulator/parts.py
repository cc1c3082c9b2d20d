"""The state of a deployed pipeline: its queue, its executions and its functions' logs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cdk_inference.local import aws
from cdk_inference.local.messages import queue_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from cdk_inference.local.stacks import Resource

_APIS = ("AWS::ApiGateway::RestApi", "AWS::ApiGatewayV2::Api")
_FAILED = ("FAILED", "TIMED_OUT", "ABORTED")
_WAITING, _IN_FLIGHT = "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
_MOST_REASON = 300  # characters
_MOST_EVENTS = 10_000  # in one answer

LATE_MS = 10_000
"""How much later than its time stamp says an event may appear in a log, in milliseconds."""

# Lines of a function's process when it ends, and the last line of a traceback.
_ERROR = re.compile(
    r"Task timed out|Worker process died|Worker init failed|\[ERROR\]|[\w.]+(Error|Exception|Exit)(: |$)"
)


@dataclass
class Parts:
    """Physical names of a pipeline's parts.

    Parameters
    ----------
    queue
        Name or URL of the queue of events.
    machines
        Names or ARNs of the state machines.
    workflows
        Those of them that score objects.
    pipes
        Names of the pipes.
    functions
        The names that users know the functions by, by physical name.
    apis
        Its APIs.
    scheduled
        Whether a schedule puts the messages into the queue.
    env
        Account and region of all of them.
    """

    queue: str | None = None
    machines: list[str] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)
    pipes: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    apis: list[Resource] = field(default_factory=list)
    scheduled: bool = False
    env: aws.Env = aws.DEFAULT_ENV

    def add(self, resource: Resource) -> None:
        """Add a resource of the pipeline, if it is one of these parts.

        Parameters
        ----------
        resource
            The resource.
        """
        role, name = resource.metadata.get("role"), resource.physical_id
        if role == "queue":
            self.queue = name
        elif resource.type == "AWS::StepFunctions::StateMachine":
            self.machines.append(name)
            if role != "backfill":
                self.workflows.append(name)
        elif resource.type == "AWS::Pipes::Pipe":
            self.pipes.append(name)
        elif resource.type in _APIS:
            self.apis.append(resource)
        elif role == "schedule":
            self.scheduled = True
        elif resource.type == "AWS::Lambda::Function" and "text_stream" not in resource.metadata:
            self.functions[name] = str(resource.metadata.get("stage") or resource.logical_id)


class Situation:
    """Tells what the parts of a pipeline say from a moment on.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    parts
        The pipeline's.
    since
        Milliseconds since the epoch.
    report
        Returns the last thing that one of these pipes could not do since then, if there is one.
    told
        Faults of functions that were told before; those that are told now are added.
    """

    def __init__(
        self,
        endpoint: str,
        parts: Parts,
        *,
        since: int,
        report: Callable[[int, Collection[str]], str | None],
        told: set[tuple[int, str]],
    ) -> None:
        self._endpoint = endpoint
        self._parts = parts
        self._since = since
        self._report = report
        self._told = told

    def describe(self) -> str:
        """Return what the logs, the queue and the executions say, in one line; it begins with the last error."""
        said = [self._last_error(), self._queue(), self._executions()]
        return "; ".join(part for part in said if part)

    def fault(self) -> str | None:
        """Return why a function cannot go on, if it cannot: its process was killed, or does not start.

        Each fault is told once, so that a caller may decide to wait on.
        """
        for fault in aws.call(self._endpoint, aws.FAULTS)["faults"]:
            at, name = fault["at"], fault["function"]
            if at >= self._since and name in self._parts.functions and (at, name) not in self._told:
                self._told.add((at, name))
                label, group = self._parts.functions[name], log_group(self._endpoint, name, self._parts.env)
                return f"function {label} {fault['reason']}; its log group: {group} (name: {name})"
        return None

    def _queue(self) -> str:
        if self._parts.queue is None:
            return ""
        url = queue_url(self._endpoint, self._parts.queue, self._parts.env)
        sqs = aws.client(self._endpoint, "sqs", self._parts.env)
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[_WAITING, _IN_FLIGHT])["Attributes"]
        return f"queue: {counts[_WAITING]} visible, {counts[_IN_FLIGHT]} in flight"

    def _executions(self) -> str:
        states = aws.client(self._endpoint, "stepfunctions", self._parts.env)
        running = failed = 0
        for machine in self._parts.machines:
            arn = machine_arn(machine, self._parts.env)
            for status in ("RUNNING", *_FAILED):
                # One page: who has more than a thousand need not know how many.
                executions = states.list_executions(stateMachineArn=arn, statusFilter=status)["executions"]
                if status == "RUNNING":
                    running += len(executions)
                else:
                    failed += sum(e["startDate"].timestamp() * 1000 >= self._since for e in executions)
        return f"executions: {running} running, {failed} failed"

    def _last_error(self) -> str:
        if report := self._report(self._since, self._parts.pipes):
            return f"last error: {report[:_MOST_REASON]}"
        errors = [
            f"{function}: {error}"
            for _, function, message in log_events(
                self._endpoint, self._parts.functions, since=self._since, env=self._parts.env
            )
            if (error := _error(message))
        ]
        return f"last error: {errors[-1][:_MOST_REASON]}" if errors else ""


def log_events(
    endpoint: str, functions: Mapping[str, str], *, since: int, env: aws.Env = aws.DEFAULT_ENV
) -> list[tuple[int, str, str]]:
    """Return log events of functions.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    functions
        The names that users know them by, by physical name.
    since
        Milliseconds since the epoch.
    env
        Account and region of the functions.

    Returns
    -------
    list of tuple
        Time in milliseconds since the epoch, what users call the function, and message; by time.
    """
    events: list[tuple[int, str, str]] = []
    for name, label in functions.items():
        found = group_events(endpoint, log_group(endpoint, name, env), since=since, env=env)
        events += [(at, label, message) for at, _, message in found]
    return sorted(events, key=lambda event: event[0])  # those of one millisecond stay in order


def group_events(
    endpoint: str, group: str, *, since: int, env: aws.Env = aws.DEFAULT_ENV
) -> Iterator[tuple[int, str, str]]:
    """Yield time, stream and message of the events in a log group, by time; none if the group does not exist.

    It leaves out the events of a single millisecond beyond 10,000.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    group
        Name of the log group.
    since
        Milliseconds since the epoch.
    env
        Account and region of the log group.
    """
    client = aws.client(endpoint, "logs", env)
    more = True
    while more:
        try:
            events = client.filter_log_events(logGroupName=group, startTime=since, limit=_MOST_EVENTS)["events"]
        except client.exceptions.ResourceNotFoundException:
            return
        # MiniStack gives the oldest, and no token for those after them.
        if more := len(events) == _MOST_EVENTS:
            since, first = events[-1]["timestamp"], events[0]["timestamp"]
            if first < since:  # the next answer has all of the last millisecond
                events = [event for event in events if event["timestamp"] < since]
            else:
                since += 1
        for event in events:
            yield event["timestamp"], event["logStreamName"], event["message"]


def log_group(endpoint: str, function: str, env: aws.Env) -> str:
    """Return the name of a function's log group.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    function
        Physical name of the function.
    env
        Its account and region.
    """
    functions = aws.client(endpoint, "lambda", env)
    configuration: dict[str, Any] = functions.get_function_configuration(FunctionName=function)
    return str(configuration.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{function}")


def machine_arn(name: str, env: aws.Env) -> str:
    """Return the ARN of a state machine, from its name or its ARN."""
    if name.startswith("arn:"):
        return name
    return f"arn:aws:states:{env.region}:{env.account}:stateMachine:{name}"


def _error(message: str) -> str | None:
    """Return the error that a line of a log tells of, if it tells of one."""
    message = message.strip()
    if not message.startswith("{"):
        return message if _ERROR.match(message) else None
    try:
        line = json.loads(message)
    except ValueError:
        return None
    if not isinstance(line, dict) or line.get("level") not in ("ERROR", "CRITICAL"):
        return None
    reasons = [line.get("message"), str(line.get("exception") or "").strip().rpartition("\n")[2]]
    return ": ".join(str(reason) for reason in reasons if reason)
