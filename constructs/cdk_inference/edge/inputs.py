"""Where a device takes its items from: a folder, or a topic of an MQTT broker."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_UPLINK = 4096
"""Bytes a second below which S3 closes uploads, since nothing of them comes for too long."""

_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
_FOLDERS_AND_FILES = ("WATCH_FOLDER", "RESULTS_FOLDER", "MQTT_CA_FILE", "MQTT_CERT_FILE", "MQTT_KEY_FILE")
_LONGEST_PATH = 4095  # bytes, as Linux has it
_LONGEST_TOPIC = 800  # bytes, so that a key of S3 holds it


@check_props
class EdgeInput(ABC):
    """A source of items on a device; made by one of the class methods."""

    kind: ClassVar[str]

    @classmethod
    def folder(cls, path: str) -> EdgeInput:
        """Take the files that are put or moved into a folder.

        Parameters
        ----------
        path
            The folder on the device, such as ``"/var/lib/camera"``. The agent must be able to write it: a file leaves
            it once its answer is kept.

        Raises
        ------
        PropError
            The path is not absolute, or has characters that cannot be printed.
        """
        return _Folder(path)

    @classmethod
    def mqtt(
        cls,
        *,
        topic: str,
        url: str = "mqtt://localhost:1883",
        result_topic: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> EdgeInput:
        """Take the messages of a topic.

        Parameters
        ----------
        topic
            The filter that the agent subscribes to with QoS 1, such as ``"cameras/+/frames"``.
        url
            The broker, ``mqtt://host:port`` or ``mqtts://host:port``. Default: one on the device.
        result_topic
            Where answers are published. Default: nowhere.
        ca_file, cert_file, key_file
            Paths on the device: the authority that signed the broker's certificate, and the certificate and the key of
            the device. Default: the authorities of the system, and no certificate.

        Raises
        ------
        PropError
            A topic, the URL or a path cannot be one, or the URL has a password.
        """
        return _Mqtt(topic, url, result_topic, ca_file, cert_file, key_file)

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """Return the variables by which the agent knows it."""


@dataclass(frozen=True)
class _Folder(EdgeInput):
    kind: ClassVar[str] = "folder"
    path: str

    def __post_init__(self) -> None:
        check_path("path", self.path)

    def settings(self) -> Mapping[str, str]:
        return {"WATCH_FOLDER": self.path}


@dataclass(frozen=True)
class _Mqtt(EdgeInput):
    kind: ClassVar[str] = "mqtt"
    topic: str
    url: str
    result_topic: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None

    def __post_init__(self) -> None:
        check_filter("topic", self.topic)
        if self.result_topic is not None:
            check_result_topic("result_topic", self.result_topic)
        check_url("url", self.url)
        for name in ("ca_file", "cert_file", "key_file"):
            if (path := getattr(self, name)) is not None:
                check_path(name, path)
        if (self.cert_file is None) != (self.key_file is None):
            given = "cert_file" if self.key_file is None else "key_file"
            raise PropError(f"cert_file and key_file must be given together, got {given} alone; add the other")

    def settings(self) -> Mapping[str, str]:
        given = {
            "MQTT_URL": self.url,
            "MQTT_TOPIC": self.topic,
            "MQTT_RESULT_TOPIC": self.result_topic,
            "MQTT_CA_FILE": self.ca_file,
            "MQTT_CERT_FILE": self.cert_file,
            "MQTT_KEY_FILE": self.key_file,
        }
        return {name: value for name, value in given.items() if value is not None}


def check_setting(name: str, value: str) -> None:
    """Refuse a value that a setting of the agent cannot have; an empty one is not set.

    Raises
    ------
    PropError
        It cannot have it.
    """
    if not value:
        return
    if name in _FOLDERS_AND_FILES:
        check_path(name, value)
    elif name == "MQTT_URL":
        check_url(name, value)
    elif name == "MQTT_TOPIC":
        check_filter(name, value)
    elif name == "MQTT_RESULT_TOPIC":
        check_result_topic(name, value)
    elif name == "WATCH_SUFFIXES":
        check(
            all(part.startswith(".") and len(part) > 1 for part in value.split(",")), name, "such as '.jpg,.png'", value
        )
    else:
        fits = value.isascii() and value.isdecimal() and int(value) >= LEAST_UPLINK
        check(fits, name, f"a number of bytes, {LEAST_UPLINK} or more", f"'{value}'")


def check_filter(name: str, topic: str) -> None:
    """Refuse what no broker takes as a filter of topics."""
    _check_topic(name, topic)
    levels = topic.split("/")
    if "#" in "".join(levels[:-1]) or any(len(level) > 1 and set(level) & {"+", "#"} for level in levels):
        raise PropError(f"{name} must have + as a whole level, and # as the last one, got '{topic}'")


def check_result_topic(name: str, topic: str) -> None:
    """Refuse what is not the name of one topic."""
    _check_topic(name, topic)
    if set(topic) & {"+", "#"}:
        raise PropError(f"{name} must be without + and #, got '{topic}'; name one topic")


def check_url(name: str, url: str) -> None:
    """Refuse what is not the address of a broker, and one with a password, which the template would show."""
    rule = f"{name} must be mqtt://host:port or mqtts://host:port, got '{url}'"
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise PropError(rule) from None
    if parts.username is not None or parts.password is not None:
        raise PropError(f"{name} must be without a password, got one; give the device a certificate by cert_file")
    plain = _PRINTABLE.fullmatch(url) is not None and " " not in url
    if not (fits and plain) or parts.path.strip("/") or parts.query or parts.fragment:
        raise PropError(rule)


def check_path(name: str, path: str) -> None:
    """Refuse what cannot be the path of a file or folder on a device.

    Raises
    ------
    PropError
        It is not absolute, too long, or has characters that cannot be printed.
    """
    if not PurePosixPath(path).is_absolute() or _PRINTABLE.fullmatch(path) is None or ".." in path.split("/"):
        raise PropError(f"{name} must be an absolute path of printable characters without '..', got {path!r}")
    if len(path.encode()) > _LONGEST_PATH:
        raise PropError(f"{name} must have at most {_LONGEST_PATH} bytes, got {len(path.encode())}; shorten it")


def _check_topic(name: str, topic: str) -> None:
    if _PRINTABLE.fullmatch(topic) is None or len(topic.encode()) > _LONGEST_TOPIC:
        raise PropError(f"{name} must have 1 to {_LONGEST_TOPIC} bytes of printable characters, got {topic!r:.100}")
