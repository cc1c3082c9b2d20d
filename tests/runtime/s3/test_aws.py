"""How long the clients try: a service that is out of order must not look like an object that kills its stage."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from tests.runtime.invocation import Context

from inference_runtime import aws
from inference_runtime.errors import LittleTimeError
from inference_runtime.stages.item import Item
from inference_runtime.timeouts import ATTEMPTS, MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Inbox

STAGE_TIMEOUT = 30  # the pipeline's default, in seconds
LONGEST_PAUSE = 1  # before botocore's second attempt


@contextmanager
def out_of_order(*, hangs: bool) -> Iterator[tuple[str, list[str]]]:
    """Serve nothing but 503, or never answer. Yields the URL and the requests so far."""
    requests: list[str] = []
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if hangs:
                end.wait()
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client has given up
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # all connect at once

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            end.set()
            server.shutdown()


@pytest.fixture
def rejected(inbox: Inbox, table: str, stage: Callable[[str], str]) -> dict[str, Any]:
    """A batch of which every object gets a row that says no."""
    stage("def function(outputs, item): ...")
    items = [Item.from_message(inbox.message(f"{n}")).to_json() for n in range(32)]
    return {
        "items": items,
        "rejected": [{"index": n, "reason": "no"} for n in range(32)],
        "groups": [],
        "inference": "none",
        "model_version": "m1",
    }


@pytest.mark.parametrize("service", ["s3", "dynamodb"])
def test_a_call_gives_up_well_before_the_stage_does(environment: pytest.MonkeyPatch, service: str) -> None:
    with out_of_order(hangs=False) as (url, requests):
        environment.setenv("AWS_ENDPOINT_URL", url)
        client = aws.client(service)
        with pytest.raises(ClientError, match="503"):
            client.list_buckets() if service == "s3" else client.list_tables()
    config = client.meta.config
    pauses = (len(requests) - 1) * LONGEST_PAUSE
    assert len(requests) == 2
    assert len(requests) * (config.connect_timeout + config.read_timeout) + pauses <= 0.75 * STAGE_TIMEOUT


def test_while_s3_hangs_a_batch_takes_no_longer_than_one_read(
    environment: pytest.MonkeyPatch, inbox: Inbox, stage: Callable[[str], str], load: Callable[[str], Any]
) -> None:
    environment.setattr(aws, "READ_TIMEOUT", 1)
    environment.setenv("MODEL_INPUTS", "[]")
    stage("def function(data, item): ...")
    messages = [inbox.message(f"{n}") for n in range(32)]
    with out_of_order(hangs=True) as (url, requests):
        environment.setenv("AWS_ENDPOINT_URL_S3", url)
        response = load("preprocess")({"messages": messages})
    assert response["retry"] == [message["message_id"] for message in messages]
    assert len(requests) == MAX_CONNECTIONS * ATTEMPTS


def test_while_dynamodb_hangs_a_batch_takes_no_longer_than_one_write(
    environment: pytest.MonkeyPatch, rejected: dict[str, Any], load: Callable[[str], Any]
) -> None:
    environment.setattr(aws, "READ_TIMEOUT", 1)
    with out_of_order(hangs=True) as (url, requests):
        environment.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        response = load("postprocess")(rejected)
    assert response["retry"] == [item["message_id"] for item in rejected["items"]]
    assert len(requests) == MAX_CONNECTIONS * ATTEMPTS


def test_what_dynamodb_does_not_answer_in_time_is_given_back_before_the_function_is_killed(
    environment: pytest.MonkeyPatch, rejected: dict[str, Any], load: Callable[[str], Any]
) -> None:
    with out_of_order(hangs=True) as (url, requests):
        environment.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        response = load("postprocess")(rejected, Context(2))  # a read alone may take 8 seconds
        assert len(requests) <= MAX_CONNECTIONS
    assert response["retry"] == [item["message_id"] for item in rejected["items"]]


def test_no_row_is_written_when_the_time_is_over(
    rejected: dict[str, Any], load: Callable[[str], Any], rows: Callable[[], dict[str, Any]]
) -> None:
    handler = load("postprocess")
    with pytest.raises(LittleTimeError, match="too late to write rows"):
        handler(rejected, Context(0))
    assert rows() == {}
    assert handler(rejected, Context(3600))["rejected"] == len(rejected["items"]) == len(rows())
