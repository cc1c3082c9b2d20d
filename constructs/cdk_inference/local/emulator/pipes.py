"""Pipes that MiniStack creates but does not run as AWS does: SQS to Step Functions, and those of `stream_pipes`.

Each pipe is taken from the deployed template and acts with its own role. A missing permission shows here as it would in
AWS.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cdk_inference.local import aws
from cdk_inference.local.emulator.health import Health
from cdk_inference.local.emulator.input_template import render
from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole, Refusal, env_of
from cdk_inference.local.emulator.pipe_targets import Workflow, variables_of
from cdk_inference.local.emulator.stream_pipes import StreamPipe, StreamPipeDefinition
from cdk_inference.local.emulator.stream_sources import SOURCES
from cdk_inference.local.errors import LocalError
from cdk_inference.local.stacks import Resource, Stack, deployed

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from types import TracebackType

_MAX_RECEIVE = 10  # SQS gives at most ten messages at once
_BATCHES_IN_FLIGHT = max(2, min(5, os.cpu_count() or 1))  # AWS begins with five; each wants its own functions
_LOOK_SECONDS = 0.5  # between two looks at what is deployed
_BACKOFF_SECONDS = 1.0
_POLL_SECONDS = 2
_KEPT_REFUSALS = 1000

_Place = tuple[aws.Env, str]  # where a stack is, and its name
_AnyDefinition: TypeAlias = "PipeDefinition | StreamPipeDefinition"


@dataclass(frozen=True)
class PipeDefinition:
    """One SQS to Step Functions pipe.

    Parameters
    ----------
    name, arn, role_arn, source_arn, target_arn
        As DescribePipe gives them.
    batch_size
        Messages for one execution, at most.
    window
        Seconds to wait for a batch to fill.
    input_template
        Template applied to each message, None for the message as it is.
    synchronous
        Whether the pipe waits for the execution and heeds its ``batchItemFailures``.
    """

    name: str
    arn: str
    role_arn: str
    source_arn: str
    target_arn: str
    batch_size: int = 1
    window: int = 0
    input_template: str | None = None
    synchronous: bool = False

    @classmethod
    def of(cls, resource: Resource, described: dict[str, Any]) -> PipeDefinition:
        """Read a pipe from its template resource and from DescribePipe.

        Parameters
        ----------
        resource
            The deployed ``AWS::Pipes::Pipe``: MiniStack forgets its parameters, the template does not.
        described
            Answer of DescribePipe.

        Returns
        -------
        PipeDefinition
            The pipe.

        Raises
        ------
        LocalError
            If the pipe uses what this stand-in does not have.
        """
        properties = resource.properties
        source = properties.get("SourceParameters", {})
        target = properties.get("TargetParameters", {})
        unknown = [name for name in ("Enrichment",) if properties.get(name)]
        unknown += [name for name in ("FilterCriteria",) if source.get(name)]
        if unknown:
            raise LocalError(f"pipe {resource.physical_id} cannot run locally with {', '.join(unknown)}")
        queue = source.get("SqsQueueParameters", {})
        invocation = target.get("StepFunctionStateMachineParameters", {}).get("InvocationType", "FIRE_AND_FORGET")
        template = target.get("InputTemplate")
        if template is not None and not isinstance(template, str):
            raise LocalError(
                f"pipe {resource.physical_id} cannot run locally with an input template that refers to resources"
            )
        return cls(
            name=described["Name"],
            arn=described["Arn"],
            role_arn=described["RoleArn"],
            source_arn=described["Source"],
            target_arn=described["Target"],
            batch_size=int(queue.get("BatchSize", _MAX_RECEIVE)),
            window=int(queue.get("MaximumBatchingWindowInSeconds", 0)),
            input_template=template,
            synchronous=invocation == "REQUEST_RESPONSE",
        )


class _Pipe:
    """One running pipe: a thread that collects batches, a few that deliver them."""

    def __init__(
        self,
        endpoint: str,
        definition: PipeDefinition,
        refusals: deque[Refusal],
        logger: logging.Logger,
        on_end: Callable[[str, BaseException], None],
        retry_after: int | None,
    ) -> None:
        self.definition = definition
        self._endpoint = endpoint
        self._logger = logger
        self._on_end = on_end
        self._retry_after = retry_after
        self._stopping = threading.Event()
        self._free = threading.Semaphore(_BATCHES_IN_FLIGHT)
        self._deliveries = ThreadPoolExecutor(_BATCHES_IN_FLIGHT, thread_name_prefix=f"pipe-{definition.name}")
        self._role = PipeRole(
            endpoint,
            name=definition.name,
            arn=definition.arn,
            role_arn=definition.role_arn,
            services=("sqs", "stepfunctions"),
            refusals=refusals,
            logger=logger,
            stopping=self._stopping,
        )
        self._poller = threading.Thread(target=self._poll, name=f"pipe-{definition.name}", daemon=True)
        self._poller.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        """Wait until no message is in our hands any more."""
        self._poller.join()
        self._deliveries.shutdown(wait=True)

    def _poll(self) -> None:
        try:
            self._take_batches()
        except BaseException as error:
            self._on_end(f"pipe {self.definition.name}", error)

    def _take_batches(self) -> None:
        while not self._stopping.is_set():
            self._free.acquire()  # no message is taken before there is room to deliver it
            try:
                batch = self._collect()
            except OutageError:
                batch = []
                self._stopping.wait(_BACKOFF_SECONDS)
            if batch:
                self._deliveries.submit(self._deliver, batch)
            else:
                self._free.release()

    def _collect(self) -> list[dict[str, Any]]:
        """Return a batch: full, or as full as it got within the window that its first message opens."""
        batch = self._receive(self.definition.batch_size)
        if not batch or (self._retry_after is not None and all(map(_came_back, batch))):
            return batch  # a window would be the longest part of the time until the next try
        deadline = time.monotonic() + self.definition.window
        while len(batch) < self.definition.batch_size and time.monotonic() < deadline and not self._stopping.is_set():
            try:
                batch += self._receive(self.definition.batch_size - len(batch), deadline)
            except OutageError:
                break  # deliver what we hold
        return batch

    def _receive(self, wanted: int, deadline: float | None = None) -> list[dict[str, Any]]:
        wait = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, max(0, int(deadline - time.monotonic())))
        with self._role.acting("ReceiveMessage"):
            sqs = self._role.client("sqs")
            answer = sqs.receive_message(
                QueueUrl=_queue_url(self._endpoint, self.definition.source_arn),
                MaxNumberOfMessages=min(wanted, _MAX_RECEIVE),
                WaitTimeSeconds=wait,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        messages = list(answer.get("Messages", []))
        if not messages and deadline is not None and wait == 0:
            # The last part of a second of the window, in which a short poll found nothing.
            self._stopping.wait(max(0.0, min(0.1, deadline - time.monotonic())))
        return messages

    def _deliver(self, batch: list[dict[str, Any]]) -> None:
        try:
            ids = [message["MessageId"] for message in batch]
            failed = set(ids)
            try:
                failed = self._execute(batch, ids)
                self._delete([message for message in batch if message["MessageId"] not in failed])
            except OutageError:
                pass  # the visibility timeout gives the messages back to the queue
            if self._retry_after is not None:
                self._show_again([message for message in batch if message["MessageId"] in failed], self._retry_after)
        except BaseException as error:
            self._on_end(f"pipe {self.definition.name}", error)
        finally:
            self._free.release()

    def _execute(self, batch: list[dict[str, Any]], ids: list[str]) -> set[str]:
        inputs = [self._render(message) for message in batch]
        target = Workflow(synchronous=self.definition.synchronous)
        return target.deliver(self._role, self.definition, inputs, ids, self._logger)

    def _render(self, message: dict[str, Any]) -> Any:  # noqa: ANN401
        definition = self.definition
        return render(definition.input_template, _record(message, definition.source_arn), variables_of(definition))

    def _delete(self, messages: list[dict[str, Any]]) -> None:
        # One by one: MiniStack takes DeleteMessageBatch for a separate IAM action, which no policy allows.
        url = _queue_url(self._endpoint, self.definition.source_arn)
        for message in messages:
            with self._role.acting("DeleteMessage"):
                sqs = self._role.client("sqs")
                try:
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                except sqs.exceptions.ReceiptHandleIsInvalid:
                    # The execution took longer than the visibility timeout, and somebody else has the message now.
                    name, message_id = self.definition.name, message["MessageId"]
                    self._logger.info("pipe %s: message %s came back too early", name, message_id)

    def _show_again(self, messages: list[dict[str, Any]], seconds: int) -> None:
        """Make messages visible before their visibility timeout is over; the pipe's role need not have the right."""
        sqs = aws.client(self._endpoint, "sqs", env_of(self.definition.source_arn))
        url = _queue_url(self._endpoint, self.definition.source_arn)
        for message in messages:
            try:
                sqs.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
                )
            except (ClientError, BotoCoreError, ResponseParserError) as error:
                if not self._stopping.is_set():
                    name, message_id = self.definition.name, message["MessageId"]
                    self._logger.warning("pipe %s: message %s stays hidden: %s", name, message_id, error)
                if not isinstance(error, ClientError):
                    return  # nothing answers: each further message would be tried for a second, too


class PipeRunner:
    """Runs the pipes of every deployed stack, and follows deployments.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    health
        Learns which pipe, if any, ended unexpectedly; all others end with it. Default: one that the runner makes.
    retry_after
        Seconds until messages that failed are tried again, without waiting for others. Default: as in AWS, until the
        queue's visibility timeout is over.
    """

    def __init__(self, endpoint: str, *, health: Health | None = None, retry_after: int | None = None) -> None:
        self._endpoint = endpoint
        self._retry_after = retry_after
        self.health = health if health is not None else Health()
        self._stopping = threading.Event()
        self._refusals: deque[Refusal] = deque(maxlen=_KEPT_REFUSALS)
        self._marks: dict[_Place, str] = {}
        self._pipes: dict[_Place, list[_Pipe | StreamPipe]] = {}
        self._checkpoints: dict[str, dict[str, str]] = {}
        self._watcher = self._new_watcher()

    @property
    def refusals(self) -> list[Refusal]:
        """The failures of the pipes, oldest first."""
        return list(self._refusals)

    @property
    def running(self) -> list[_AnyDefinition]:
        """The pipes that run now."""
        return [pipe.definition for pipes in list(self._pipes.values()) for pipe in pipes]

    def start(self) -> Self:
        """Start to look for pipes and to run them, also after `stop`: streams go on where they were."""
        self._stopping.clear()
        self._marks = {}
        self._watcher = self._new_watcher()
        self._watcher.start()
        return self

    def _new_watcher(self) -> threading.Thread:
        return threading.Thread(target=self._watch, name="pipes", daemon=True)

    def ask_to_stop(self) -> None:
        """Take no more messages; batches in flight go on."""
        self._stopping.set()
        for pipe in [pipe for pipes in list(self._pipes.values()) for pipe in pipes]:
            pipe.ask_to_stop()

    def stop(self) -> None:
        """Finish the batches in flight and stop."""
        self.ask_to_stop()
        if self._watcher.is_alive():
            self._watcher.join()
        self._replace({})

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self.health.unreported:
            self.health.check()

    def _end(self, part: str, error: BaseException) -> None:
        """Record that a thread ended unexpectedly, and end the others."""
        if self._stopping.is_set():
            self.health.logger.error("%s raised while it was to stop", part, exc_info=error)
        else:
            self.health.ended(part, error)
        self.ask_to_stop()

    def _watch(self) -> None:
        try:
            self._follow_deployments()
        except BaseException as error:
            self._end("the watcher of deployments", error)

    def _follow_deployments(self) -> None:
        seen = None
        while not self._stopping.is_set():
            try:
                found = aws.call(self._endpoint, aws.ENVIRONMENTS)
                if found != seen:  # one request tells whether anything has changed
                    self._follow([aws.Env(*pair) for pair in found["environments"]])
                    seen = found
            except (ClientError, BotoCoreError, ResponseParserError, LocalError, OSError, HTTPException) as error:
                if not self._stopping.is_set():
                    self.health.logger.warning("cannot look at what is deployed: %s", error)
            self._stopping.wait(_LOOK_SECONDS)

    def _follow(self, environments: Sequence[aws.Env]) -> None:
        marks = {
            (env, name): mark
            for env in environments
            for name, mark in deployed(aws.client(self._endpoint, "cloudformation", env)).items()
        }
        if marks != self._marks:
            self._replace({place: self._definitions(*place) for place in marks})
            self._marks = marks

    def _definitions(self, env: aws.Env, stack: str) -> list[_AnyDefinition]:
        pipes, cloudformation = (aws.client(self._endpoint, service, env) for service in ("pipes", "cloudformation"))
        resources = Stack(cloudformation, stack, env).resources()
        found: list[_AnyDefinition] = []
        for resource in (resource for resource in resources if resource.type == "AWS::Pipes::Pipe"):
            described = pipes.describe_pipe(Name=resource.physical_id)
            services = tuple(described[end].split(":")[2] for end in ("Source", "Target"))
            if described["DesiredState"] != "RUNNING":
                continue
            try:
                if services == ("sqs", "states"):
                    found.append(PipeDefinition.of(resource, described))
                elif services[0] in SOURCES and services[1] in ("events", "states"):
                    found.append(StreamPipeDefinition.of(resource, described, resources))
            except LocalError as error:
                self.health.logger.warning("%s", error)
                self._refusals.append(Refusal(resource.physical_id, "CreatePipe", str(error)))
        return found

    def _replace(self, wanted: dict[_Place, list[_AnyDefinition]]) -> None:
        """Stop the pipes that are gone or changed, start those that are new."""
        keep = {
            name: [pipe for pipe in self._pipes.get(name, []) if pipe.definition in definitions]
            for name, definitions in wanted.items()
        }
        kept = [pipe for pipes in keep.values() for pipe in pipes]
        gone = [pipe for pipes in self._pipes.values() for pipe in pipes if pipe not in kept]
        for pipe in gone:
            pipe.ask_to_stop()
        for pipe in gone:
            pipe.join()
        for name, definitions in wanted.items():
            have = [pipe.definition for pipe in keep[name]]
            for definition in definitions:
                if definition not in have:
                    log = self.health.logger
                    log.info("pipe %s runs: %s -> %s", definition.name, definition.source_arn, definition.target_arn)
                    keep[name].append(self._run(definition))
        self._pipes = keep

    def _run(self, definition: _AnyDefinition) -> _Pipe | StreamPipe:
        log = self.health.logger
        if isinstance(definition, StreamPipeDefinition):
            done = self._checkpoints.setdefault(definition.arn, {})
            return StreamPipe(self._endpoint, definition, self._refusals, log, self._end, done)
        return _Pipe(self._endpoint, definition, self._refusals, log, self._end, self._retry_after)


def _came_back(message: dict[str, Any]) -> bool:
    return int(message["Attributes"]["ApproximateReceiveCount"]) > 1


def _record(message: dict[str, Any], source_arn: str) -> dict[str, Any]:
    """Return a message as pipes deliver it to a target."""
    attributes = {
        name: {_lower(key): value for key, value in attribute.items()}
        for name, attribute in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": attributes,
        "md5OfBody": message.get("MD5OfBody", ""),
        "eventSource": "aws:sqs",
        "eventSourceARN": source_arn,
        "awsRegion": env_of(source_arn).region,
    }


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _queue_url(endpoint: str, arn: str) -> str:
    *_, account, name = arn.split(":")
    return f"{endpoint}/{account}/{name}"
