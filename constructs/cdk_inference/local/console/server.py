"""The server of the console: its page, what changes as server-sent events, and what a person may do."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cdk_inference.costs.options import Traffic
from cdk_inference.errors import InferenceError
from cdk_inference.local import aws
from cdk_inference.local.console import models, objects, redrive
from cdk_inference.local.console.costs import costs
from cdk_inference.local.console.deployment import Deployment
from cdk_inference.local.console.details import details, execution
from cdk_inference.local.console.feed import Feed
from cdk_inference.local.console.notices import Edits, Notices
from cdk_inference.local.console.security import OBJECT_POLICY, Guard
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.requests import Request

    from cdk_inference.local.cloud import Cloud
    from cdk_inference.local.console.pipeline_view import PipelineView

_PAGE = Path(__file__).with_name("page")
_STATIC = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MOST_JSON = 2**20  # bytes of a request
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_PREVIEW = 4000  # characters of a text


class Console:
    """The console of an embedded AWS, on the loopback interface, for the length of a ``with`` block.

    Parameters
    ----------
    find
        Returns the embedded AWS, or raises `LocalError` if there is none.
    pipeline
        The pipeline that is shown first. Default: the first by name.
    port
        Port to listen on. Default: a free one.
    project
        Folder of the app whose edits go live meanwhile. Default: none.

    Attributes
    ----------
    url
        The address for the browser, with the token.

    Raises
    ------
    LocalError
        If the port is not free.
    """

    def __init__(
        self,
        find: Callable[[], Cloud],
        *,
        pipeline: str | None = None,
        port: int = 0,
        project: Path | None = None,
    ) -> None:
        self._notices = Notices()
        self._deployment = Deployment(find, pipeline, self._notices)
        self._edits = None if project is None else Edits(project, find, self._notices)
        self._feeds: dict[str | None, Feed] = {}
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        try:
            listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        except OSError as error:
            raise LocalError(f"port must be free, got {self._port}: {error.strerror}; leave it out for any") from error
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, Guard(self._app(), port, token), started)),
            name="console",
            daemon=True,
        )
        self._thread.start()
        started.wait(_START_SECONDS)
        self.url = f"http://127.0.0.1:{port}/?token={token}"
        if self._edits is not None:
            self._edits.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._edits is not None:
            self._edits.stop(_STOP_SECONDS)
        if self._loop is not None and self._stopping is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_STOP_SECONDS)

    @property
    def open_pages(self) -> int:
        """How many pages are open; the embedded AWS is looked at for these alone."""
        return sum(feed.open_pages for feed in self._feeds.values())

    async def _serve(self, listener: socket.socket, guard: Guard, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.include_server_header = False
        config.graceful_timeout = 0.2  # pages listen for as long as they are open
        config.loglevel = "ERROR"
        started.set()
        await serve(guard, config, shutdown_trigger=self._stopping.wait)  # type: ignore[arg-type]  # its own types of ASGI

    def _app(self) -> Starlette:
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route("/", _file, methods=get),
                Route("/page/{name}", _file, methods=get),
                Route("/events", self._events, methods=get),
                Route("/object", self._object, methods=get),
                Route("/card", self._card, methods=get),
                Route("/api/rows", self._rows, methods=get),
                Route("/api/details", self._details, methods=get),
                Route("/api/execution", self._execution, methods=get),
                Route("/api/preview", self._preview, methods=get),
                Route("/api/models", self._models, methods=get),
                Route("/api/costs", self._costs, methods=get),
                Route("/api/upload", self._upload, methods=post),
                Route("/api/send", self._send, methods=post),
                Route("/api/redrive", self._redrive, methods=post),
                Route("/api/score-again", self._score_again, methods=post),
            ],
            exception_handlers={InferenceError: _said, objects.MissingObjectError: _missing},
        )

    def _feed(self, name: str | None) -> Feed:
        if name not in self._feeds:
            self._feeds[name] = Feed(lambda: self._deployment.look(name))
        return self._feeds[name]

    async def _events(self, request: Request) -> Response:
        return StreamingResponse(self._feed(_pipeline(request)).events(), media_type="text/event-stream")

    def _rows(self, request: Request) -> Response:
        given = request.query_params
        statuses = tuple(given.getlist("status"))
        skip = max(0, _whole(given.get("skip", "0"), "skip"))
        return self._answer(
            request, lambda view: view.page_of_rows(search=given.get("search", ""), statuses=statuses, skip=skip)
        )

    def _details(self, request: Request) -> Response:
        bucket, key = _given(request, "bucket"), _given(request, "key")
        return self._answer(request, lambda view: details(view, bucket, key))

    def _execution(self, request: Request) -> Response:
        arn = _given(request, "arn")

        def read(view: PipelineView) -> dict[str, Any]:
            if not any(
                arn.startswith(f"{each.replace(':stateMachine:', ':execution:')}:") for each in view.executions.machines
            ):
                raise LocalError(f"arn must be that of an execution of this pipeline, got {arn[:300]!r}")
            return execution(view, view.executions.read(arn))

        return self._answer(request, read)

    def _preview(self, request: Request) -> Response:
        found = self._content(request, whole=False)
        text = found.data.decode(errors="replace")[:_PREVIEW] if found.kind == "text" else ""
        return JSONResponse({"kind": found.kind, "size": found.size, "text": text})

    def _object(self, request: Request) -> Response:
        found = self._content(request, whole=True)
        headers = {"content-security-policy": OBJECT_POLICY}
        if request.query_params.get("etag"):
            headers["cache-control"] = "private, max-age=3600"  # the same bytes for as long as they are served
        if found.kind == "other":
            headers["content-disposition"] = "attachment"
        return Response(found.data, headers=headers, media_type=found.media_type)

    def _content(self, request: Request, *, whole: bool) -> objects.Content:
        key, etag = _given(request, "key"), request.query_params.get("etag", "")
        view = self._deployment.ask(_pipeline(request), lambda view: view)
        if view.pipeline.inbox is None:
            raise LocalError(f"pipeline must have an inbox to show an object, got {view.pipeline.name}")
        s3 = aws.client(view.endpoint, "s3", view.pipeline.env)
        return objects.content(s3, view.pipeline.inbox, key, etag, whole=whole)

    def _models(self, request: Request) -> Response:
        return JSONResponse({"models": models.models(self._deployment.functions(_pipeline(request)))})

    def _card(self, request: Request) -> Response:
        page = models.card(_given(request, "version"))
        if page is None:
            return PlainTextResponse("the card must be in the cache of this machine, got none\n", HTTPStatus.NOT_FOUND)
        return FileResponse(page, media_type="text/html", headers={"content-security-policy": OBJECT_POLICY})

    def _costs(self, request: Request) -> Response:
        given = request.query_params
        traffic = Traffic(
            items_per_month=_whole(given.get("items", "1000000"), "items"),
            batch_fill=_whole(given.get("fill", "100"), "fill") / 100,
        )
        recorded = self._deployment.recorded_costs(_pipeline(request))
        return self._answer(request, lambda view: costs(recorded, traffic, rows=view.rows.statuses().total()))

    async def _upload(self, request: Request) -> Response:
        name = _given(request, "name")
        data = await _body(request, objects.MOST_UPLOADED)

        def put(view: PipelineView) -> dict[str, str]:
            key = objects.key_of_upload(view.pipeline, name)
            view.pipeline.put(key, data)
            return {"key": key}

        return await self._act(request, put)

    async def _send(self, request: Request) -> Response:
        name, kind = _given(request, "input"), request.query_params.get("type", "")
        authorization = request.headers.get("x-authorization", "")
        data = await _body(request, objects.MOST_UPLOADED)

        def send(view: PipelineView) -> dict[str, Any]:
            if name not in view.inputs:
                raise LocalError(f"input must be one of {', '.join(view.inputs) or 'none'}, got {name[:300]!r}")
            return view.inputs[name].send(data, kind, authorization)

        return await self._act(request, send)

    async def _redrive(self, request: Request) -> Response:
        given = await _parsed(request)
        ids = None if given.get("all") is True else [str(each) for each in _listed(given, "ids")]
        return await self._act(request, lambda view: {"sent": redrive.redrive(view.endpoint, view.pipeline, ids)})

    async def _score_again(self, request: Request) -> Response:
        given = await _parsed(request)
        wanted = None if given.get("all") is True else {tuple(map(str, each)) for each in _listed(given, "rows")}

        def send(view: PipelineView) -> dict[str, int]:
            rows = [
                row
                for row in view.rows.find(statuses=redrive.REPEATABLE, most=_MOST_AGAIN)
                if wanted is None or (row["object"], row["version"]) in wanted
            ]
            whole = view.rows.whole((row["object"], row["version"]) for row in rows)
            return {"sent": redrive.score_again(view.endpoint, view.pipeline, whole)}

        return await self._act(request, send)

    def _answer(self, request: Request, question: Callable[[PipelineView], Any]) -> Response:
        return JSONResponse(self._deployment.ask(_pipeline(request), question))

    async def _act(self, request: Request, action: Callable[[PipelineView], Any]) -> Response:
        """Do something that takes its time, and let all pages see what comes of it."""
        view = await asyncio.to_thread(self._deployment.ask, _pipeline(request), lambda view: view)
        done = await asyncio.to_thread(action, view)
        for feed in self._feeds.values():
            feed.hurry()
        return JSONResponse(done)


_MOST_AGAIN = 10_000  # rows that are scored again at once


def _file(request: Request) -> Response:
    name = request.path_params.get("name", "console.html")
    file = _PAGE / name
    if file.suffix not in _STATIC or file.parent != _PAGE or not file.is_file():
        return PlainTextResponse("there is no such file\n", HTTPStatus.NOT_FOUND)
    return FileResponse(file, media_type=_STATIC[file.suffix])


def _said(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)


def _missing(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.NOT_FOUND)


def _pipeline(request: Request) -> str | None:
    return request.query_params.get("pipeline") or None


def _given(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise LocalError(f"{name} must be given")
    return value


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):  # noqa: PLR2004
        raise LocalError(f"{name} must be a whole number, got {text[:100]!r}")
    return int(text)


async def _parsed(request: Request) -> dict[str, Any]:
    try:
        given = json.loads(await _body(request, _MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise LocalError(f"body must be JSON, got something else: {error}") from error
    if not isinstance(given, dict):
        raise LocalError(f"body must be a JSON object, got {type(given).__name__}")
    return given


def _listed(given: dict[str, Any], name: str) -> list[Any]:
    found = given.get(name)
    if not isinstance(found, list):
        raise LocalError(f"{name} must be a list, got {type(found).__name__}")
    return found


async def _body(request: Request, most: int) -> bytes:
    """Read the body of a request, but no more than a limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise LocalError(
                f"body must have at most {most / 2**20:.0f} MiB, got more; use the AWS CLI for larger objects"
            )
        parts.append(part)
    return b"".join(parts)
