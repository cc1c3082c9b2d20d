"""A topic of an MQTT broker. A message is acknowledged once it is on the disk, and so comes again until then.

The session at the broker outlasts connections. Without room for more, nothing is acknowledged, and the broker keeps
what comes meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from inference_runtime.edge.inputs.stream import MessageStream
from inference_runtime.edge.storage.records import TOPIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.edge.settings import Topic
    from inference_runtime.edge.storage.outbox import Outbox
    from inference_runtime.edge.storage.records import Record

KEEP_ALIVE = 60
"""Seconds without a word after which broker and device take each other for gone."""

STOP_SECONDS = 5.0
"""Seconds for a farewell to the broker."""

MAX_PUBLISHING = 20
"""Answers that are on their way to the broker at a time."""

_RECONNECT = (1, 120)  # seconds, doubled each time
_QOS = 1

_log = logging.getLogger(__name__)


class _Client(Client):
    """A client that has no payload in memory which is too large.

    paho has no other hook before that. The requirements of a device pin its version.
    """

    def __init__(self, stream: MessageStream, session: str) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=session, clean_session=False, manual_ack=True)
        self._stream = stream
        self.on_socket_open = lambda *_: stream.reset()

    def _sock_recv(self, bufsize: int) -> bytes:
        return self._stream.receive(super()._sock_recv, bufsize)


class TopicInput:
    """Takes messages of a topic, and publishes answers.

    Parameters
    ----------
    topic
        The broker and the topics.
    device
        The id of the session at the broker.
    outbox
        Takes the messages.
    max_bytes
        Larger messages are taken without their bytes, and rejected.
    has_room
        Tells whether so many bytes more may be taken.
    wake
        Is called once there is something to score.

    Attributes
    ----------
    paused
        Whether a message could not be taken. It comes again after `stop` and `start`.
    """

    def __init__(
        self,
        topic: Topic,
        device: str,
        outbox: Outbox,
        *,
        max_bytes: int,
        has_room: Callable[[int], bool],
        wake: Callable[[], object],
    ) -> None:
        self._topic = topic
        self._outbox = outbox
        self._has_room = has_room
        self._wake = wake
        self._publishing: list[tuple[MQTTMessageInfo, Record]] = []  # what the broker has not confirmed
        self._thread: Thread | None = None
        self._leaving = False
        self.paused = False
        self._stream = MessageStream(max_bytes)
        self._client = client = _Client(self._stream, f"{device}-inference")
        client.reconnect_delay_set(*_RECONNECT)
        if topic.user is not None:
            client.username_pw_set(topic.user, topic.password)
        if topic.tls is not None:
            client.tls_set_context(topic.tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def alive(self) -> bool:
        """Whether it is not broken: a thread that should work does."""
        return self._thread is None or self._leaving or self._thread.is_alive()

    def start(self) -> None:
        """Connect as soon as there is a network, and stay connected."""
        if self._thread is None:
            self.paused = False
            self._client.connect_async(self._topic.host, self._topic.port, KEEP_ALIVE)
            self._thread = Thread(
                target=self._client.loop_forever, kwargs={"retry_first_connection": True}, name="mqtt", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Disconnect. The broker keeps the session."""
        if self._thread is not None:
            thread, self._leaving = self._thread, True
            self._client.disconnect()
            thread.join(STOP_SECONDS)  # it may wait for a broker that is gone
            if not thread.is_alive():
                self._thread, self._leaving = None, False

    def publish(self) -> None:
        """Publish answers that were not published yet, in order, and note those that the broker has."""
        if self._topic.results is None:
            return
        for sent, record in [pair for pair in self._publishing if pair[0].is_published()]:
            self._outbox.published(record)
            self._publishing.remove((sent, record))
        if not self._client.is_connected() or len(self._publishing) >= MAX_PUBLISHING:
            return
        under_way = {record.sequence for _, record in self._publishing}
        for record in self._outbox.to_publish(MAX_PUBLISHING):
            if record.sequence not in under_way and record.answer is not None:
                sent = self._client.publish(self._topic.results, json.dumps(record.answer["told"]), _QOS)
                if sent.rc != MQTT_ERR_SUCCESS:
                    return
                self._publishing.append((sent, record))

    def _on_connect(self, client: Client, _: object, __: object, reason: Any, ___: object) -> None:  # noqa: ANN401
        if reason.is_failure:
            _log.error("the MQTT broker refuses the connection: %s", reason)
            return
        _log.info("connected to the MQTT broker")
        client.subscribe(self._topic.name, _QOS)

    def _on_subscribe(self, _: Client, __: object, ___: int, reasons: Any, ____: object) -> None:  # noqa: ANN401
        if refused := [str(reason) for reason in reasons if reason.is_failure]:
            _log.error("the MQTT broker refuses the topic %s: %s", self._topic.name, ", ".join(refused))

    def _on_disconnect(self, _: Client, __: object, ___: object, reason: Any, ____: object) -> None:  # noqa: ANN401
        if not self._leaving:
            _log.warning("disconnected from the MQTT broker: %s", reason)

    def _on_message(self, client: Client, _: object, message: MQTTMessage) -> None:
        """Take a message, and acknowledge it; one that cannot be taken comes again after the next connection."""
        if self.paused:
            return
        try:
            data = bytes(message.payload)
            left_out = self._stream.left_out(data)
            size, digest = left_out or (len(data), hashlib.sha256(data).hexdigest())
            key = f"{message.topic}/{digest}"
            again = message.dup or message.retain  # a reading that is the same as the last is another item
            if not (again and self._outbox.has(TOPIC, key)):
                kept = b"" if left_out else data
                if not self._has_room(len(kept)):
                    self.paused = True
                    return
                time = datetime.now(UTC).isoformat(timespec="milliseconds")
                self._outbox.take_message(kept, size=size, key=key, digest=digest, event_time=time)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            _log.error("a message cannot be taken: %s", error)
            self.paused = True
            return
        client.ack(message.mid, message.qos)
        self._wake()
