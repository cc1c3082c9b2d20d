"""How the stand-in of a pipe acts: with the pipe's own role, so that a missing permission shows."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cdk_inference.local import aws
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    import logging
    from collections import deque
    from collections.abc import Iterator, Sequence

_SERVICE = "pipes.amazonaws.com"
_SESSION_SECONDS = 1800.0


@dataclass(frozen=True)
class Refusal:
    """Something that a pipe could not do.

    Parameters
    ----------
    pipe
        Name of the pipe.
    action
        The action that it tried, such as ``"StartSyncExecution"``; ``"AssumeRole"`` for its role.
    message
        Why it failed.
    at
        When, in seconds since the epoch.
    """

    pipe: str
    action: str
    message: str
    at: float = field(default_factory=time.time, compare=False)


class OutageError(Exception):
    """A pipe cannot go on now; it tries again later."""


class PipeRole:
    """The role of a pipe, with the credentials that the pipes service gets for it.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    name, arn, role_arn
        The pipe and its role.
    services
        The services that the pipe calls, as boto3 names them.
    refusals
        A list to which failures of the pipe are added.
    logger
        Hears of it too.
    stopping
        Set once failures are nobody's concern any more.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        arn: str,
        role_arn: str,
        services: Sequence[str],
        refusals: deque[Refusal],
        logger: logging.Logger,
        stopping: threading.Event,
    ) -> None:
        self._endpoint = endpoint
        self._name, self._arn, self._role_arn, self._services = name, arn, role_arn, services
        self.refusals, self._logger, self._stopping = refusals, logger, stopping
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._renewal: float | None = None  # none before the first session: the clock may start anywhere

    def client(self, service: str) -> Any:  # noqa: ANN401
        """Return a client with the rights of the role.

        Raises
        ------
        OutageError
            The role cannot be assumed.
        """
        with self.acting("AssumeRole"), self._lock:
            if self._renewal is None or time.monotonic() > self._renewal:
                self._assume()
            return self._clients[service]

    @contextmanager
    def acting(self, action: str) -> Iterator[None]:
        """Record why an action failed, and give up for now.

        Raises
        ------
        OutageError
            The action failed.
        """
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError, LocalError) as error:
            if not self._stopping.is_set():
                self._logger.warning("pipe %s: %s failed: %s", self._name, action, error)
                self.refusals.append(Refusal(self._name, action, str(error)))
            raise OutageError from error

    def _assume(self) -> None:
        credentials = aws.service_credentials(self._endpoint, self._role_arn, service=_SERVICE, source_arn=self._arn)
        self._clients = aws.role_clients(self._endpoint, credentials, self._services, env_of(self._arn).region)
        self._renewal = time.monotonic() + _SESSION_SECONDS


def env_of(arn: str) -> aws.Env:
    """Return the account and the region of what an ARN names."""
    *_, region, account, _ = arn.split(":", 5)
    return aws.Env(account, region)
