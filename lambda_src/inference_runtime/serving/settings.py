"""The settings of the server, from the environment of its container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from http import HTTPStatus

from inference_runtime.anywhere.opening import BUCKETS, SOURCE
from inference_runtime.environment import whole_number
from inference_runtime.errors import StageError

_STATUSES = (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server.

    Attributes
    ----------
    port
        `PORT`; 8080 by default, as Cloud Run and Knative set it.
    max_body_bytes
        `MAX_BODY_BYTES`, largest body of a request; 8 MiB by default.
    max_requests
        `MAX_REQUESTS`, how many may be answered or wait at a time; 32 by default. More are told to come again.
    max_waiting_bytes
        `MAX_WAITING_BYTES`, bytes of the bodies of all these requests; 64 MiB by default, and no less than one of them.
        More are told to come again. A body takes its bytes about twice and a half until it is scored.
    max_batch
        `MAX_MESSAGES`, most events that are scored together; 16 by default.
    batch_seconds
        `BATCH_SECONDS` that a batch may take; 30 by default.
    shutdown_seconds
        `SHUTDOWN_SECONDS` that requests have after SIGTERM; 25 by default, before Kubernetes kills after 30.
    rejected_status
        `REJECTED_STATUS` of an event whose row says REJECTED or FAILED: 422 by default. A broker that tries again on
        each other status than a success takes 204, and Event Grid 400.
    replies
        `REPLY` is ``1``: answer an event with another one that has the result. Otherwise answers are empty, as brokers
        want them.
    webhook_origins
        `WEBHOOK_ORIGINS` with spaces between them, who may ask whether they may send, such as
        ``eventgrid.azure.net``.
    buckets
        The buckets whose objects are read, if there is a store; see `anywhere.opening`.
    """

    port: int = 8080
    max_body_bytes: int = 8 * 1024**2
    max_requests: int = 32
    max_waiting_bytes: int = 64 * 1024**2
    max_batch: int = 16
    batch_seconds: int = 30
    shutdown_seconds: int = 25
    rejected_status: int = HTTPStatus.UNPROCESSABLE_ENTITY
    replies: bool = False
    webhook_origins: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings.

        Raises
        ------
        StageError
            If one of them is out of range.
        """
        body = whole_number("MAX_BODY_BYTES", cls.max_body_bytes, 1, 2**31)
        waiting = whole_number("MAX_WAITING_BYTES", max(cls.max_waiting_bytes, body), body, 2**40)
        return cls(
            port=whole_number("PORT", cls.port, 0, 65_535),
            max_body_bytes=body,
            max_waiting_bytes=waiting,
            max_requests=whole_number("MAX_REQUESTS", cls.max_requests, 1, 10_000),
            max_batch=whole_number("MAX_MESSAGES", cls.max_batch, 1, 1_000),
            batch_seconds=whole_number("BATCH_SECONDS", cls.batch_seconds, 1, 3_600),
            shutdown_seconds=whole_number("SHUTDOWN_SECONDS", cls.shutdown_seconds, 1, 3_600),
            rejected_status=_status("REJECTED_STATUS", cls.rejected_status),
            replies=os.environ.get("REPLY") == "1",
            webhook_origins=tuple(os.environ.get("WEBHOOK_ORIGINS", "").split()),
            buckets=tuple(os.environ.get(BUCKETS, "").split()) if SOURCE in os.environ else (),
        )


def _status(name: str, default: int) -> int:
    number = whole_number(name, default, 100, 599)
    if number not in _STATUSES:
        raise StageError(f"{name} must be {', '.join(str(int(status)) for status in _STATUSES)}, got {number}")
    return number
