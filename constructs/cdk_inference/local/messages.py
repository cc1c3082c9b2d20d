"""Messages of a queue as they lie there: none is taken out, which SQS itself has no way for."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cdk_inference.local import aws

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Message:
    """A message of a queue.

    Parameters
    ----------
    id
        Its id.
    body
        Its body.
    attributes
        Its string attributes by name.
    sent
        When it was sent, in milliseconds since the epoch.
    visible
        Whether a consumer could get it now.
    """

    id: str
    body: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    sent: int = 0
    visible: bool = True

    @property
    def event(self) -> dict[str, Any]:
        """The event in the body; empty if the body is something else."""
        try:
            event = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        match event:
            case {"Records": [{"eventTime": at, "s3": {"object": {"key": str(key)}}}]}:  # S3 notified the queue itself
                return {**event, "time": at, "detail": {"object": {"key": urllib.parse.unquote_plus(key)}}}
            case dict():
                return event
        return {}

    @property
    def key(self) -> str:
        """The key of the object that it is about; ``""`` if it is about none."""
        return key_of(self.event)

    @property
    def reason(self) -> str:
        """Why it is a dead letter, as the workflow says; SQS says nothing of those that it moves itself."""
        said = [self.attributes[name] for name in ("Error", "Cause") if name in self.attributes]
        return ": ".join(said) or "in the dead-letter queue"


def key_of(event: Mapping[str, Any]) -> str:
    """Return the key of the object that an event of S3 is about; ``""`` if it is about none."""
    detail = event.get("detail")
    if isinstance(detail, str):
        try:
            detail = json.loads(detail)
        except ValueError:
            return ""
    thing = detail.get("object") if isinstance(detail, dict) else None
    return str(thing.get("key", "")) if isinstance(thing, dict) else ""


def queue_url(endpoint: str, queue: str, env: aws.Env = aws.DEFAULT_ENV) -> str:
    """Return the URL under which a queue can be called.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    queue
        Its name, or its URL with whatever host.
    env
        Its account and region.
    """
    return f"{endpoint}/{env.account}/{queue.rsplit('/', 1)[-1]}"


def messages(endpoint: str, queue: str, env: aws.Env = aws.DEFAULT_ENV) -> list[Message]:
    """Return all messages of a queue, also those that a consumer holds.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    queue
        Its name or URL.
    env
        Its account and region.
    """
    # MiniStack's own; a receive would hide the messages from others and count.
    query = urllib.parse.urlencode({"QueueUrl": queue_url(endpoint, queue, env), "region": env.region})
    answer = aws.call(endpoint, f"/_ministack/sqs/messages?{query}")["messages"]
    return [
        Message(
            id=str(message["MessageId"]),
            body=str(message["Body"]),
            attributes={
                name: str(value["StringValue"])
                for name, value in (message.get("MessageAttributes") or {}).items()
                if "StringValue" in value
            },
            sent=int(message["Attributes"]["SentTimestamp"]),
            visible=bool(message["IsVisible"]),
        )
        for regions in answer.values()
        for queues in regions.values()
        for found in queues.values()
        for message in found
    ]
