"""The child process that is the embedded AWS: MiniStack, on a port of its own, for as long as its parent lives.

Run as a file, not as a module: it then imports nothing of ours. The first line on stdout is the port; closing stdin
stops it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import sys
import threading
import venv
from pathlib import Path
from typing import Any

# What Lambda's Python runtimes offer a function besides its own bundle.
_LAMBDA_PACKAGES = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")


def _make_lambda_python(folder: Path) -> str:
    """Make a Python that sees boto3 and nothing else, so that a function has to bundle what it imports."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in _LAMBDA_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (site / source.name).symlink_to(source)
    return str(folder / "bin" / "python")


def _follow_parent(state: Path) -> None:
    """Stop as soon as nobody holds the other end of stdin: our parent asked for it, or died."""
    os.read(0, 1)
    shutil.rmtree(state, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # us and the functions' workers


def main(state: Path) -> None:
    """Serve until stdin closes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    os.environ["GATEWAY_PORT"] = str(port)
    threading.Thread(target=_follow_parent, args=(state,), daemon=True).start()

    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # type: ignore[import-untyped]  # noqa: PLC0415

    sys.executable = _make_lambda_python(state / "lambda-python")  # what MiniStack runs Python functions with

    async def behind_tls(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        # Bucket and queue policies refuse what does not come by TLS. Loopback needs none: we say, as a
        # terminating proxy would, that it did.
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"x-forwarded-proto", b"https")]}
        await app(scope, receive, send)

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    print(port, flush=True)  # noqa: T201
    asyncio.run(serve(behind_tls, config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
