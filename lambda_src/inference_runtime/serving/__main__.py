"""Starts the server: ``python -m inference_runtime.serving``.

It ends with code 0 after SIGTERM or SIGINT, once the requests that were begun are answered, and with 1 if it cannot
serve.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import StageError
from inference_runtime.lifecycle import WARMING, WARMING_KEY
from inference_runtime.serving.cpus import available_cpus
from inference_runtime.serving.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from inference_runtime.serving.application import Server

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a container's, which the orchestrator decides about
_log = logging.getLogger("inference_runtime.serving")


def main() -> int:
    """Serve until a signal ends it, and return the exit code."""
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s %(message)s")
    os.environ.setdefault("LAMBDA_TASK_ROOT", str(Path(__file__).parents[2]))
    os.environ.setdefault("MODEL_THREADS", str(available_cpus()))
    try:
        settings = Settings.from_environment()
    except StageError as error:
        _log.error("%s", error)
        return 1
    import uvicorn  # noqa: PLC0415 - wrong settings are told at once

    from inference_runtime.serving.application import Server  # noqa: PLC0415
    from inference_runtime.serving.scoring import Scorer  # noqa: PLC0415

    server = Server(settings)
    http = uvicorn.Server(
        uvicorn.Config(
            server.application(),
            host=os.environ.get("HOST", _ANY_ADDRESS),
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_seconds,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )
    scorer = Scorer(_handler, max_batch=settings.max_batch, seconds=settings.batch_seconds)
    thread = Thread(target=_serve, args=(http, scorer), name="http")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end(server, http))
    thread.start()
    try:
        opened = _open()
        if opened and not http.should_exit:
            server.scorer = scorer
            _log.info("ready")
            scorer.run()
    finally:
        _end(server, http)
        thread.join()
    return 0 if opened and http.started else 1


def _open() -> bool:
    """Open the model and the stores, and run the model once."""
    try:
        _handler({WARMING_KEY: WARMING}, None)
    except Exception:
        _log.exception("cannot open the model or the stores")
        return False
    return True


def _handler(event: dict[str, Any], context: object) -> Any:  # noqa: ANN401 - the handler's
    from inference_runtime.handlers.fused import handler  # noqa: PLC0415 - its import opens the model

    return handler(event, context)


def _serve(http: uvicorn.Server, scorer: Any) -> None:  # noqa: ANN401
    try:
        http.run()
    except SystemExit:  # uvicorn has logged why, such as a port that is taken
        pass
    finally:
        scorer.stop()


def _end(server: Server, http: uvicorn.Server) -> None:
    """Take no more events, and let those that were begun end."""
    server.scorer = None
    http.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
