"""The settings of a device, from the environment that Greengrass' recipe or systemd's unit sets."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from inference_runtime.environment import required, whole_number
from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from inference_runtime.edge.package import Package

REMOVE, MOVE = "remove", "move"
"""A file of the watched folder is removed or moved once its answer is on the disk."""

_DEVICE = re.compile(r"[A-Za-z0-9:_-]{1,128}")  # the name of a thing of AWS IoT
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MOST_BYTES = 2**50
_MOST_DAYS = 36_500
_LEAST_SPOOL_BYTES = 8_192  # besides the largest item
_MOST_TOPIC_BYTES = 800  # with the digest, the key of an item must fit a key of S3


@dataclass(frozen=True)
class Topic:
    """A topic of an MQTT broker.

    Attributes
    ----------
    host, port
        The broker's.
    user, password
        Those of the URL; None without.
    name
        The filter that is subscribed to.
    results
        The topic that answers are published to, if there is one.
    tls
        How to trust the broker, and who this device is; None without TLS.
    """

    host: str
    port: int
    user: str | None
    password: str | None
    name: str
    results: str | None
    tls: ssl.SSLContext | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an agent.

    Attributes
    ----------
    device
        `DEVICE`, or `AWS_IOT_THING_NAME` that Greengrass sets.
    state
        `STATE_FOLDER`, where records and bytes are kept.
    watched
        `WATCH_FOLDER`, if one is watched.
    topic
        `MQTT_URL`, `MQTT_TOPIC`, `MQTT_RESULT_TOPIC`, `MQTT_CA_FILE`, `MQTT_CERT_FILE` and `MQTT_KEY_FILE`.
    suffixes
        `WATCH_SUFFIXES` with commas between them, such as ``.jpg,.JPG``: other files are left alone. All by default.
    after
        `WATCH_AFTER`, ``remove`` by default, or ``move`` to the folder `done` in the watched one.
    done_days, max_done_bytes
        `DONE_DAYS` that a file is kept in `done`, 30 by default, and `MAX_DONE_BYTES` of all of them, 1 GiB by default.
    failed_days, max_failed_bytes
        `FAILED_DAYS` that an item is kept that cannot be scored or sent, 0 by default, which is for ever.
        `MAX_FAILED_BYTES` of all of them, 1 GiB by default: nothing is taken while there are more.
    empty_hours
        `EMPTY_FOLDER_HOURS` that a folder in the watched one must be empty before it is removed, 24 by default; 0 for
        never.
    settle_ms
        `SETTLE_MS` that a file must stay the same before it is taken; 2,000 by default.
    poll_ms
        `POLL_MS` between two looks at the folder; 500 by default.
    results
        `RESULTS_FOLDER` for lines of JSON with the answers.
    bucket, prefix
        `INBOX_BUCKET`, and `INBOX_PREFIX`, ``edge/{device}/`` by default, with the name in the place of ``{device}``.
    table
        `RESULTS_TABLE` for the rows of sure answers.
    max_item_bytes
        `MAX_OBJECT_BYTES`, as in the pipeline; 64 MiB by default.
    max_spool_bytes
        `MAX_SPOOL_BYTES` of items and rows that wait; 1 GiB by default.
    bytes_per_second
        `UPLINK_BYTES_PER_SECOND` that are sent at most; 0 for no limit.
    max_batch, batch_seconds
        `MAX_MESSAGES` that are scored together, 16 by default, and `BATCH_SECONDS` that they may take, 30 by default.
    retry_ms, max_retry_ms
        `RETRY_MS` before the second try to send, 1,000 by default, and `MAX_RETRY_MS`, 300,000 by default.
    status_ms
        `STATUS_MS` between two writes of ``status.json``; 60,000 by default.
    """

    device: str
    state: Path
    watched: Path | None
    topic: Topic | None
    suffixes: tuple[str, ...]
    after: str
    done_days: int
    max_done_bytes: int
    failed_days: int
    max_failed_bytes: int
    empty_hours: int
    settle_ms: int
    poll_ms: int
    results: Path | None
    bucket: str | None
    prefix: str
    table: str | None
    max_item_bytes: int
    max_spool_bytes: int
    bytes_per_second: int
    max_batch: int
    batch_seconds: int
    retry_ms: int
    max_retry_ms: int
    status_ms: int

    @classmethod
    def from_environment(cls, package: Package) -> Settings:
        """Read the settings.

        Raises
        ------
        StageError
            If one is missing or out of range, or two do not fit each other.
        """
        device = os.environ.get("DEVICE") or os.environ.get("AWS_IOT_THING_NAME") or ""
        if not _DEVICE.fullmatch(device):
            raise StageError(f"DEVICE must be 1 to 128 letters, digits, ':', '_' or '-', got {device!a:.150}")
        state = Path(required("STATE_FOLDER"))
        watched = _path("WATCH_FOLDER")
        topic = _topic()
        if watched is None and topic is None:
            raise StageError("WATCH_FOLDER or MQTT_URL must be set, got neither")
        if watched is not None and _overlap(watched, state):
            raise StageError(f"STATE_FOLDER must be outside of WATCH_FOLDER, got {state} and {watched}")
        results = _path("RESULTS_FOLDER")
        if watched is not None and results is not None and _overlap(watched, results):
            raise StageError(f"RESULTS_FOLDER must be outside of WATCH_FOLDER, got {results} and {watched}")
        bucket = os.environ.get("INBOX_BUCKET") or None
        if package.threshold is not None and bucket is None:
            raise StageError("INBOX_BUCKET must be set, since this version escalates what it is not sure of")
        after = os.environ.get("WATCH_AFTER", REMOVE)
        if after not in {REMOVE, MOVE}:
            raise StageError(f'WATCH_AFTER must be "{REMOVE}" or "{MOVE}", got {after!a:.100}')
        most = whole_number("MAX_OBJECT_BYTES", 64 * 1024**2, 1, _MOST_BYTES)
        spool = whole_number("MAX_SPOOL_BYTES", max(1024**3, 2 * most), most, _MOST_BYTES)
        retry = whole_number("RETRY_MS", 1_000, 1, 86_400_000)
        return cls(
            device=device,
            state=state,
            watched=watched,
            topic=topic,
            suffixes=tuple(text.strip() for text in os.environ.get("WATCH_SUFFIXES", "").split(",") if text.strip()),
            after=after,
            done_days=whole_number("DONE_DAYS", 30, 0, _MOST_DAYS),
            max_done_bytes=whole_number("MAX_DONE_BYTES", 1024**3, 1, _MOST_BYTES),
            failed_days=whole_number("FAILED_DAYS", 0, 0, _MOST_DAYS),
            max_failed_bytes=whole_number("MAX_FAILED_BYTES", 1024**3, 1, _MOST_BYTES),
            empty_hours=whole_number("EMPTY_FOLDER_HOURS", 24, 0, 24 * _MOST_DAYS),
            settle_ms=whole_number("SETTLE_MS", 2_000, 0, 3_600_000),
            poll_ms=whole_number("POLL_MS", 500, 1, 3_600_000),
            results=results,
            bucket=bucket,
            prefix=os.environ.get("INBOX_PREFIX", "edge/{device}/").replace("{device}", device),
            table=os.environ.get("RESULTS_TABLE") or None,
            max_item_bytes=most,
            max_spool_bytes=max(spool, most + _LEAST_SPOOL_BYTES),
            bytes_per_second=whole_number("UPLINK_BYTES_PER_SECOND", 0, 0, _MOST_BYTES),
            max_batch=whole_number("MAX_MESSAGES", 16, 1, 1_000),
            batch_seconds=whole_number("BATCH_SECONDS", 30, 1, 3_600),
            retry_ms=retry,
            max_retry_ms=whole_number("MAX_RETRY_MS", max(300_000, retry), retry, 86_400_000),
            status_ms=whole_number("STATUS_MS", 60_000, 100, 86_400_000),
        )


def _path(name: str) -> Path | None:
    text = os.environ.get(name)
    return Path(text) if text else None


def _overlap(one: Path, other: Path) -> bool:
    first, second = one.resolve(), other.resolve()
    return first == second or first in second.parents


def _topic() -> Topic | None:
    address = os.environ.get("MQTT_URL")
    if not address:
        return None
    shown = "mqtt://host:port or mqtts://host:port"  # the URL may have a password
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise StageError(f"MQTT_URL must be {shown}: {error}") from error
    if url.scheme not in _PORTS or not url.hostname or url.path.strip("/") or url.query:
        raise StageError(f"MQTT_URL must be {shown}")
    name = required("MQTT_TOPIC")
    if len(name.encode()) > _MOST_TOPIC_BYTES:
        raise StageError(f"MQTT_TOPIC must be at most {_MOST_TOPIC_BYTES} bytes long, got {name!a:.100}")
    results = os.environ.get("MQTT_RESULT_TOPIC") or None
    if results is not None and ({"+", "#"} & set(results)):
        raise StageError(f"MQTT_RESULT_TOPIC must be without wildcards, got {results!a:.100}")
    return Topic(
        host=url.hostname,
        port=port or _PORTS[url.scheme],
        user=None if url.username is None else unquote(url.username),
        password=None if url.password is None else unquote(url.password),
        name=name,
        results=results,
        tls=_tls() if url.scheme == "mqtts" else None,
    )


def _tls() -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=os.environ.get("MQTT_CA_FILE") or None)
        if certificate := os.environ.get("MQTT_CERT_FILE"):
            context.load_cert_chain(certificate, os.environ.get("MQTT_KEY_FILE") or None)
    except (OSError, ssl.SSLError) as error:
        raise StageError(f"MQTT_CA_FILE, MQTT_CERT_FILE and MQTT_KEY_FILE must be readable: {error}") from error
    return context
