"""Where a device takes its items from: a folder, or a topic of an MQTT broker."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
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
        _check_topic("topic", self.topic)
        levels = self.topic.split("/")
        if "#" in "".join(levels[:-1]) or any(len(level) > 1 and set(level) & {"+", "#"} for level in levels):
            raise PropError(f"topic must have + as a whole level, and # as the last one, got '{self.topic}'")
        if self.result_topic is not None:
            _check_topic("result_topic", self.result_topic)
            if set(self.result_topic) & {"+", "#"}:
                raise PropError(f"result_topic must be without + and #, got '{self.result_topic}'; name one topic")
        self._check_url()
        for name in ("ca_file", "cert_file", "key_file"):
            if (path := getattr(self, name)) is not None:
                check_path(name, path)
        if (self.cert_file is None) != (self.key_file is None):
            given = "cert_file" if self.key_file is None else "key_file"
            raise PropError(f"cert_file and key_file must be given together, got {given} alone; add the other")

    def _check_url(self) -> None:
        try:
            parts = urlsplit(self.url)
            fits = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and parts.port != 0
            fits = fits and _PRINTABLE.fullmatch(self.url) is not None and " " not in self.url
            fits = fits and not (parts.path.strip("/") or parts.query or parts.fragment)
        except ValueError:
            raise PropError(f"url must be mqtt://host:port or mqtts://host:port, got '{self.url}'") from None
        if parts.username is not None or parts.password is not None:
            # The template would show it.
            raise PropError("url must be without a password, got one; give the device a certificate by cert_file")
        if not fits:
            raise PropError(f"url must be mqtt://host:port or mqtts://host:port, got '{self.url}'")

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
