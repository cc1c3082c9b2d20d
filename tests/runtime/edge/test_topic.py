"""Messages of a real broker: none is lost, whatever ends in between."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion
from tests.runtime.edge.device import SURE, UNSURE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.runtime.edge.device import Device, Proxy

BROKER = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A broker that only an authority of the test vouches for, and that takes nobody else: the agent's variables."""
    if BROKER is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    authority = trustme.CA()
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "own-cert", "own-key")}
    authority.cert_pem.write_to_path(paths["ca"])
    for prefix, certificate in (
        ("", authority.issue_cert("127.0.0.1")),
        ("own-", authority.issue_cert("cam-1.example")),
    ):
        certificate.private_key_pem.write_to_path(paths[f"{prefix}key"])
        certificate.cert_chain_pems[0].write_to_path(paths[f"{prefix}cert"])
    files = f"cafile {paths['ca']}\ncertfile {paths['cert']}\nkeyfile {paths['key']}"
    options = f"allow_anonymous true\nrequire_certificate true\n{files}"
    process, port = start_broker(tmp_path, options)
    try:
        yield {
            "MQTT_URL": f"mqtts://127.0.0.1:{port}",
            "MQTT_CA_FILE": str(paths["ca"]),
            "MQTT_CERT_FILE": str(paths["own-cert"]),
            "MQTT_KEY_FILE": str(paths["own-key"]),
        }
    finally:
        process.kill()
        process.wait()


def start_broker(folder: Path, options: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a broker, and return it and its port: another one if somebody takes the port before the broker does."""
    config, log = folder / "mosquitto.conf", folder / "broker.log"
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config.write_text(f"user root\nlistener {port} 127.0.0.1\n{options}\n")
        with log.open("w") as output:
            process = subprocess.Popen([BROKER, "-c", config], stdout=output, stderr=output)
        wait_until(lambda: any(said in log.read_text() for said in ("running", "Error: ")), log.read_text)
        if "running" in log.read_text():
            return process, port
        process.wait()
        assert "Address already in use" in log.read_text()


class Peer:
    """Another client of the broker."""

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self.heard: list[dict[str, Any]] = []
        client.on_message = lambda _, __, message: self.heard.append(json.loads(message.payload))

    def publish(self, topic: str, data: bytes) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, data, 1).wait_for_publish(60)


@contextmanager
def peer(broker: dict[str, str]) -> Iterator[Peer]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    context = ssl.create_default_context(cafile=broker["MQTT_CA_FILE"])
    context.load_cert_chain(broker["MQTT_CERT_FILE"], broker["MQTT_KEY_FILE"])
    client.tls_set_context(context)
    connected = threading.Event()
    client.on_subscribe = lambda *_: connected.set()
    client.on_connect = lambda *_: client.subscribe("answers", 1)
    found = Peer(client)
    client.connect_async("127.0.0.1", urlsplit(broker["MQTT_URL"]).port or 0)
    client.loop_start()
    wait_until(connected.is_set)
    yield found
    client.disconnect()
    client.loop_stop()


def test_messages_become_rows_and_survive_kills_and_a_full_spool(
    device: Device,
    network: Proxy,
    broker: dict[str, str],
    rows: Callable[[], dict[str, Any]],
    uploaded: Callable[[], dict[str, Any]],
) -> None:
    device.variables |= {
        **broker,
        "MQTT_TOPIC": "scores/+",
        "MQTT_RESULT_TOPIC": "answers",
        "MAX_OBJECT_BYTES": "9000",
        "MAX_SPOOL_BYTES": "30000",
        "WATCH_FOLDER": "",
    }
    device.start()
    device.wait(lambda: "connected to the MQTT broker" in device.log)
    with peer(broker) as other:
        for data in (SURE, SURE, UNSURE, b"x" * 9_001):
            other.publish("scores/a", data)
        device.wait(lambda: len(rows()) == 2 and len(uploaded()) == 1)
        device.wait(lambda: len(other.heard) >= 3)
        assert sorted({answer["decision"] for answer in other.heard}) == ["escalated", "rejected", "sure"]
        assert {row["status"] for row in rows().values()} == {"SUCCEEDED", "REJECTED"}
        assert all(key.startswith("scores/a/") for key in rows())
        (key,) = uploaded()
        assert key.endswith("/scores/a")

        device.kill()
        network.cut()
        for number in range(5):  # more than fit
            other.publish("scores/b", b"[0, 0.%d]" % number + b" " * 7_000)
        other.publish("scores/c", b"[9, 0]")
        device.start()
        device.wait(lambda: device.status().get("full"))
        device.kill()
        network.restore()
        device.start()
        device.wait(lambda: len(rows()) == 3 and len(uploaded()) == 6)
        assert device.stop() == 0
    assert device.status()["counts"]["sent"] == 10
