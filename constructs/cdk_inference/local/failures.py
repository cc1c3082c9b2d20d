"""Errors of user code, from the logs of functions: where in the project they were raised, and what happens next."""

from __future__ import annotations

import json
import re
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cdk_inference.local import aws
from cdk_inference.local.emulator.health import answering
from cdk_inference.local.emulator.parts import LATE_MS, group_events, log_group
from cdk_inference.local.stacks import DeployedOwners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cdk_inference.local.cloud import Cloud

_TRACEBACK = "Traceback (most recent call last):"
_OF_GROUP = f"+ Exception Group {_TRACEBACK}"
_MOST_TEXT = 10_000  # characters
_RUNTIME = "inference_runtime/"

# How preprocessing names the item in its log, see inference_runtime.stages.preprocessor.
_PREPROCESSING = re.compile(
    r"preprocessing failed: (?:s3://)?[^/]*/(?P<key>.*), item \w+, message (?P<message>\S+): (?P<cause>.*)"
)
_NOT_STARTED = "[ERROR] Worker init failed: "
_OF_LAMBDA = ("START RequestId:", "END RequestId:", "REPORT RequestId:", "Worker process died", "Task timed out")
_CALLED_BY_LAMBDA = '/_worker.py", line '  # the frame that calls the handler: what it raised was caught by nobody
_FRAME = re.compile(r'  File "(?P<path>[^"]+)"')
_FRAME_OF_GROUP = re.compile(r'(?P<margin>[ |]*)  File "(?P<path>[^"]+)"')
_ERROR_LINE = re.compile(r"(?:  \| )?(?P<error>[^\s|].*)")  # which begins at the margin, or at that of a group
_IN_PACKAGE = re.compile(r"(?:.*/ministack-lambda-[^/]+/code|/var/task)/(?P<name>.+)")
_CHAINED = re.compile(
    r"\n\n(The above exception was the direct cause|During handling of the above exception)[^\n]*\n\n"
)


@dataclass(frozen=True)
class Failure:
    """An error of user code.

    Parameters
    ----------
    at
        When it was logged, in milliseconds since the epoch.
    stage
        The function that it was raised in, as users know it.
    keys
        Keys of the objects that it is about; none if the function did not start.
    traceback
        The traceback without the frames of the runtime, with paths as in the project; or only the error.
    next
        The objects' next step, in words.
    again
        Whether the same error of the same objects was told before.
    pipeline
        The name of the function's pipeline; empty if it has none.
    """

    at: int
    stage: str
    keys: tuple[str, ...]
    traceback: str
    next: str
    again: bool = False
    pipeline: str = ""

    @property
    def error(self) -> str:
        """The error without its traceback."""
        text = self.traceback
        lines = text.splitlines() if _is_head(text.partition("\n")[0]) else [text.partition("\n")[0]]
        errors = (match["error"] for line in reversed(lines) if (match := _ERROR_LINE.fullmatch(line)))
        return next(errors, text)

    def __str__(self) -> str:
        """Return the whole as text for a terminal; in one line if it was told before."""
        what = ", ".join(self.keys) or "every object"
        if self.again:
            return f"{what} failed again in {self.stage}: {self.error}; {self.next}"
        return f"{what} failed in {self.stage}; {self.next}\n{self.traceback}"


@dataclass(frozen=True)
class _Logged:
    """An error in the log of one invocation, before it is known what happens next."""

    text: str
    key: str | None = None
    message_id: str | None = None


@dataclass(frozen=True)
class _Function:
    """A deployed function, its log group, and the queue that its objects come from.

    SQS itself may let messages be received more often than the pipeline tries them.
    """

    label: str
    group: str
    env: aws.Env
    pipeline: str
    queue: str | None = None  # its URL
    tries: int | None = None  # of each message


@dataclass
class _Read:
    """How far the log of a function is read.

    Parameters
    ----------
    since
        Where to go on, in milliseconds since the epoch.
    streams
        The log streams that are read, each with the time of its last event; each invocation has its own stream.
    """

    since: int
    streams: dict[str, int] = field(default_factory=dict)

    def add(self, streams: Mapping[str, int]) -> None:
        """Add streams, and forget those that are not asked for again."""
        self.streams |= streams
        self.since = max([self.since, *(at - LATE_MS for at in streams.values())])
        self.streams = {stream: at for stream, at in self.streams.items() if at >= self.since}


class FailureFeed:
    """Tells each error of user code once, as soon as it is logged.

    Parameters
    ----------
    cloud
        The embedded AWS.
    since
        Milliseconds since the epoch. Errors from before are not told.
    pipeline
        The pipeline whose errors are told. Default: those of all functions are.
    """

    def __init__(self, cloud: Cloud, since: int, *, pipeline: str | None = None) -> None:
        self._cloud = cloud
        self._pipeline = pipeline
        self._since = since
        self._read: dict[tuple[aws.Env, str], _Read] = {}  # by log group
        self._told: set[tuple[str, str | None, str]] = set()
        self._found: list[Failure] = []  # since the last call that came to its end
        self._functions: list[_Function] = []
        self._marks: object = None

    def new(self) -> list[Failure]:
        """Return the errors that were logged since the last call, by time.

        Raises
        ------
        LocalError
            If a part of the embedded AWS has ended.
        """
        with answering(self._cloud.check):
            marks = aws.call(self._cloud.endpoint, aws.ENVIRONMENTS)["marks"]
            if marks != self._marks:
                self._functions, self._marks = _functions(self._cloud, self._pipeline), marks
            for function in self._functions:
                self._look_at(function)
        found, self._found = self._found, []
        return sorted(found, key=lambda failure: failure.at)

    def _look_at(self, function: _Function) -> None:
        """Add the new errors of a function: all of them, or none if the embedded AWS does not answer."""
        read = self._read.setdefault((function.env, function.group), _Read(self._since))
        invocations: dict[str, tuple[int, list[str]]] = {}
        streams: dict[str, int] = {}
        for at, stream, message in group_events(
            self._cloud.endpoint, function.group, since=read.since, env=function.env
        ):
            if stream not in read.streams:
                invocations.setdefault(stream, (at, []))[1].append(message)
            streams[stream] = at
        errors = [(at, logged) for at, lines in invocations.values() for logged in logged_errors(lines)]
        found, told = self._failures(function, errors) if errors else ([], self._told)
        # Nothing above is remembered if it ends in an error, so that the next look finds it again.
        read.add(streams)
        self._found += found
        self._told = told

    def _failures(
        self, function: _Function, errors: Sequence[tuple[int, _Logged]]
    ) -> tuple[list[Failure], set[tuple[str, str | None, str]]]:
        """Return the failures for some errors, and what was told after them."""
        tries, told = _Tries(self._cloud, function), set(self._told)
        found = []
        for at, logged in errors:
            text = own_traceback(logged.text, lambda name: self._cloud.source_of(name) or name)
            keys = () if logged.key is None else (logged.key,)
            what = (function.label, logged.key, text)
            after = tries.next(logged.message_id)
            found.append(Failure(at, function.label, keys, text, after, what in told, function.pipeline))
            told.add(what)
        return found, told


def failures(cloud: Cloud, since: int) -> list[Failure]:
    """Return the errors of user code that were logged since a moment, by time.

    Parameters
    ----------
    cloud
        The embedded AWS.
    since
        Milliseconds since the epoch.
    """
    return FailureFeed(cloud, since).new()


class _Tries:
    """Says how often the messages of a function's queue are tried."""

    def __init__(self, cloud: Cloud, function: _Function) -> None:
        self._counts: dict[str, int] = {}
        self._most, self._wait = 0, 0
        if function.queue is None:
            return
        query = urllib.parse.urlencode({"QueueUrl": function.queue, "region": function.env.region})
        answer = aws.call(cloud.endpoint, f"/_ministack/sqs/messages?{query}")["messages"]
        self._counts = {
            message["MessageId"]: int(message["ReceiveCount"])
            for regions in answer.values()
            for queues in regions.values()
            for messages in queues.values()
            for message in messages
        }
        sqs = aws.client(cloud.endpoint, "sqs", function.env)
        said = sqs.get_queue_attributes(QueueUrl=function.queue, AttributeNames=["All"])["Attributes"]
        self._most = function.tries or int(json.loads(said.get("RedrivePolicy", "{}")).get("maxReceiveCount", 0))
        visibility = int(said["VisibilityTimeout"])
        self._wait = visibility if cloud.retry_after is None else cloud.retry_after

    def next(self, message_id: str | None) -> str:
        """Return what happens next to a message."""
        if not self._most:
            return "whoever sent it may try again"
        if message_id is None:
            return f"each is tried {self._most} times"
        count = self._counts.get(message_id)
        if count is None:
            return "its message has left the queue since"
        if count >= self._most:
            return "a dead letter now"
        if count == self._most - 1:
            return "a dead letter after the next failure"
        return f"tried again in {self._wait} s, {count} of {self._most}"


def logged_errors(lines: Sequence[str]) -> list[_Logged]:
    """Return the errors of user code in the log of one invocation.

    Parameters
    ----------
    lines
        Its messages.
    """
    found: list[_Logged] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        end = position + 1
        while end < len(lines) and not _begins(lines, end):
            end += 1
        rest = lines[position + 1 : end]
        if match := _PREPROCESSING.match(line):
            text = "\n".join(rest) if rest and _is_head(rest[0]) else "\n".join([match["cause"], *rest])
            found.append(_Logged(text, match["key"], match["message"]))
        elif line.startswith(_NOT_STARTED):
            found.append(_Logged("\n".join(rest) or line.removeprefix(_NOT_STARTED)))
        elif line.startswith("{"):
            found += _of_json(line)
        elif _is_head(line) and rest and _CALLED_BY_LAMBDA in rest[0]:
            found.append(_Logged("\n".join([line, *rest])))
        position = end
    return found


def own_traceback(text: str, rename: Callable[[str], str] = str) -> str:
    """Return a traceback that begins in user code, without the frames of the runtime.

    One with a group of exceptions is kept whole but for these frames, as each of them may be in user code.

    Parameters
    ----------
    text
        The traceback, or an error that has none.
    rename
        Told a path in a package, returns the path to show.
    """
    if _OF_GROUP in text:
        return "\n".join(_grouped_lines(text.strip("\n"), rename))[:_MOST_TEXT]
    before, begins, rest = text.partition(_TRACEBACK)
    if not begins:
        return text.strip()[:_MOST_TEXT]
    parts = _CHAINED.split(begins + rest)
    blocks, links = parts[::2], parts[1::2]
    kept = [_own_frames(block, rename) for block in blocks]
    own = [number for number, (frames, _) in enumerate(kept) if frames]
    if not own:
        return "\n".join(kept[-1][1]).strip()[:_MOST_TEXT] or before.strip()[:_MOST_TEXT]
    shown = ""
    for number in own:
        frames, error = kept[number]
        link = f"\n\n{links[number - 1]}:\n\n" if shown else ""
        shown += link + "\n".join([_TRACEBACK, *frames, *error]).rstrip()
    return shown[:_MOST_TEXT]


def _own_frames(block: str, rename: Callable[[str], str]) -> tuple[list[str], list[str]]:
    """Return the lines of the frames of user code in a traceback, and those of the error."""
    frames: list[list[str]] = []
    error: list[str] = []
    for line in block.splitlines()[1:]:
        if error or (line and not line.startswith("  ")):
            error.append(line)
        elif _FRAME.match(line):
            frames.append([line])
        elif frames:
            frames[-1].append(line)
    shown: list[str] = []
    for frame in frames:
        match = _FRAME.match(frame[0])
        assert match is not None  # noqa: S101 - for mypy
        inside = _IN_PACKAGE.fullmatch(match["path"])
        if inside is not None and not inside["name"].startswith(_RUNTIME):
            path = rename(inside["name"])
            shown += [f'  File "{path}"{frame[0][match.end() :]}', *frame[1:]]
        elif inside is None and shown:  # Python's own, which user code called
            shown += frame
    return shown, error


def _grouped_lines(text: str, rename: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of a traceback with a group of exceptions, without the frames of the runtime."""
    left_out: str | None = None  # how lines of code of a frame that is left out begin
    for line in text.splitlines():
        match = _FRAME_OF_GROUP.match(line)
        if match is None:
            if left_out is None or not line.startswith(left_out):
                left_out = None
                yield line
            continue
        inside = _IN_PACKAGE.fullmatch(match["path"])
        if inside is None:
            left_out = None
            yield line
        elif inside["name"].startswith(_RUNTIME):
            left_out = f"{match['margin']}    "
        else:
            left_out = None
            yield f'{match["margin"]}  File "{rename(inside["name"])}"{line[match.end() :]}'


def _is_head(line: str) -> bool:
    """Tell whether a line is the first of a traceback."""
    return line == _TRACEBACK or line.strip() == _OF_GROUP


def _begins(lines: Sequence[str], number: int) -> bool:
    """Tell whether a line of a log is the first of something that was logged."""
    line, following = lines[number], lines[number + 1 : number + 2]
    if _is_head(line):
        before = "\n".join(lines[max(0, number - 4) : number + 1])
        return any(_CALLED_BY_LAMBDA in each for each in following) and not _CHAINED.search(before)
    if line.startswith("{"):
        return bool(_parsed(line))
    return line.startswith((*_OF_LAMBDA, _NOT_STARTED, "preprocessing failed: "))


def _of_json(line: str) -> Iterable[_Logged]:
    said = _parsed(line)
    trace = said.get("exception")
    if said.get("level") not in ("ERROR", "CRITICAL") or not isinstance(trace, str):
        return
    key, message_id = said.get("object_key"), said.get("message_id")
    yield _Logged(
        trace,
        str(key).partition("/")[2] if key is not None else None,
        str(message_id) if message_id is not None else None,
    )


def _parsed(line: str) -> dict[str, object]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _functions(cloud: Cloud, pipeline: str | None) -> list[_Function]:
    """Return the deployed functions, or those of a pipeline."""
    resources = cloud.resources()
    owners, queues = DeployedOwners(resources), {}
    for each in sorted(resources, key=lambda one: len(owners.way(one)), reverse=True):
        if each.metadata.get("role") == "queue":
            queues[owners.pipeline(each), each.env] = each
    found = []
    for each in resources:
        if each.type != "AWS::Lambda::Function" or pipeline not in (None, owners.pipeline(each)):
            continue
        group, name = log_group(cloud.endpoint, each.physical_id, each.env), owners.pipeline(each)
        function = _Function(each.label, group, each.env, str(name or ""))
        if queue := queues.get((name, each.env)):
            url = f"{cloud.endpoint}/{queue.env.account}/{queue.physical_id.rsplit('/', 1)[-1]}"
            tries = queue.metadata.get("max_receive_count")
            function = replace(function, queue=url, tries=tries if isinstance(tries, int) else None)
        found.append(function)
    return found
