"""The embedded AWS as a child process: started on a free port, stopped without a trace."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

from cdk_inference.common.cache import cache_root
from cdk_inference.local import aws
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from types import TracebackType

_LAUNCHER = Path(__file__).with_name("_ministack.py")
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Emulator:
    """MiniStack with IAM enforced, in a new process group and a temporary folder.

    It stops with ``stop()``, at the end of a ``with`` block, and when this process ends in whatever way: it
    watches a pipe that only we hold.

    Parameters
    ----------
    retry_after
        Seconds that no retry waits longer than. Default: as in AWS.
    """

    def __init__(self, retry_after: float | None = None) -> None:
        self._retry_after = retry_after
        self._process: subprocess.Popen[bytes] | None = None
        self._state: Path | None = None
        self._endpoint: str | None = None

    @property
    def endpoint(self) -> str:
        """URL under which all services answer.

        Raises
        ------
        LocalError
            If the emulator does not run.
        """
        if self._endpoint is None:
            raise LocalError("the embedded AWS must be running; start it first")
        return self._endpoint

    @property
    def state(self) -> Path:
        """Folder that holds everything the emulator writes, removed when it stops."""
        if self._state is None:
            raise LocalError("the embedded AWS must be running; start it first")
        return self._state

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """The emulator's report on itself."""
        return self.state / "emulator.log"

    def wait(self) -> str | None:
        """Wait until its process ends, and end the functions' workers with it.

        Returns
        -------
        str or None
            How it ended, such as ``"was killed by SIGKILL"``; None after ``stop()``.
        """
        process = self._process
        if process is None:
            return None
        status = process.wait()
        if self._process is not process:
            return None
        _end_group(process)
        return _how(status)

    def start(self) -> Self:
        """Start it and return when every service answers.

        Raises
        ------
        LocalError
            If it ends or does not answer in time; the message ends with what it reported.
        """
        if self._process is not None:
            return self
        if importlib.util.find_spec("ministack") is None:
            raise LocalError("ministack must be installed; pip install 'cdk-inference[local]'")
        self._state = Path(tempfile.mkdtemp(prefix="cdk-inference-local-")).resolve()  # of mode 0700
        try:
            self._launch(time.monotonic() + _START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, its Lambda workers included, and remove its folder. Does nothing when it does not run."""
        process, state = self._process, self._state
        self._process = self._state = self._endpoint = None
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            _end_group(process)
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        if state is not None:
            shutil.rmtree(state, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, deadline: float) -> None:
        (self.state / "tmp").mkdir()
        key = aws.Key()
        key.save(self.state / "key.json")
        # Builds of CodeBuild are our own user's, and find what is built already; functions are not told of it.
        (self.state / "builds.json").write_text(json.dumps({"CDK_INFERENCE_CACHE": str(cache_root().absolute())}))
        limits = [] if self._retry_after is None else [str(self._retry_after)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, str(_LAUNCHER), str(self.state), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.state,
                env=self._environment(),
                start_new_session=True,
            )
        port = self._read_port(deadline)
        endpoint = f"http://127.0.0.1:{port}"
        aws.use_key(endpoint, key)
        while not _answers(endpoint):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise self._failure()
            time.sleep(0.02)
        self._endpoint = endpoint

    def _read_port(self, deadline: float) -> int:
        stdout = cast("IO[bytes]", self._process.stdout)  # type: ignore[union-attr]
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = stdout.readline().strip() if ready else b""
        if not line.isdigit():
            raise self._failure()
        return int(line)

    def _failure(self) -> LocalError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return LocalError(f"the embedded AWS cannot start; it reported:\n{tail}")

    def _environment(self) -> dict[str, str]:
        # Functions inherit it: only what is needed, and nothing that leads out of the state folder.
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        return kept | {
            "HOME": str(self.state),
            "TMPDIR": str(self.state / "tmp"),
            "S3_DATA_DIR": str(self.state / "s3"),
            "STATE_DIR": str(self.state / "persisted"),
            "PYTHONUNBUFFERED": "1",
            "AUTH": "true",
            "MINISTACK_REGION": aws.REGION,
            "MINISTACK_ACCOUNT_ID": aws.ACCOUNT,
            "LAMBDA_EXECUTOR": "local",
            "DOCKER_HOST": "unix:///nonexistent",  # it would remove the containers of other MiniStacks
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LOG_LEVEL": "INFO",
        }


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process's group, which outlives its leader while a worker hangs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _how(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"


def _answers(endpoint: str) -> bool:
    try:
        aws.call(endpoint, "/_ministack/ready")
    except OSError:  # urllib's errors are ones
        return False
    return True
