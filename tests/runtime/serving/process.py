"""A server in a process, as a container starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudevents.core.bindings import http

SOURCES = Path(__file__).parents[3] / "lambda_src"
_RUNNING = re.compile(r"running on http://[^:]+:(\d+)")


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ServerProcess:
    """A server that listens."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = 0

    @property
    def log(self) -> str:
        """Everything that it logged."""
        return self._log.read_text()

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait for a line of its log."""
        wait_until(lambda: pattern.search(self.log) or self.process.poll() is not None, lambda: self.log)
        found = pattern.search(self.log)
        assert found, f"the server ended: {self.log}"
        return found

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
        finally:
            connection.close()

    def send(self, message: http.HTTPMessage) -> Answer:
        """Send an event that the SDK wrote."""
        return self.ask("POST", "/", message.body, message.headers)

    def deliver(self, message: http.HTTPMessage) -> Answer:
        """Send an event as brokers do: again while the server says that it cannot score it now."""
        answers: list[Answer] = []
        wait_until(lambda: answers.append(self.send(message)) or answers[-1].status != HTTPStatus.SERVICE_UNAVAILABLE)
        return answers[-1]

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def started(
    folder: Path, *, python: str = sys.executable, root: Path = SOURCES, stdout: Path | None = None, **variables: str
) -> Iterator[ServerProcess]:
    """Start a server with the environment of this process and these variables, and wait until it is ready."""
    log = folder / "server.log"
    environment = {**os.environ, "PYTHONPATH": f"{root}:{folder}", "PORT": "0", "HOST": "127.0.0.1", **variables}
    with log.open("w") as errors, (stdout or Path(os.devnull)).open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "inference_runtime.serving"], env=environment, stdout=output, stderr=errors, text=True
        )
        server = ServerProcess(process, log)
        try:
            server.port = int(server.wait_for(_RUNNING)[1])
            server.wait_for(re.compile(" ready$", re.MULTILINE))
            yield server
        finally:
            process.kill()
            process.wait()
