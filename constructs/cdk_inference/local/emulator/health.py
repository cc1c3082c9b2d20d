"""Whether everything that an embedded AWS consists of still runs: what ends unexpectedly ends all of it."""

from __future__ import annotations

import http.client
import logging
import shutil
import tempfile
import threading
import time
import urllib.error
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOTICE_SECONDS = 5.0  # a dead process breaks its connections a moment before its parent notices
_UNANSWERED = (ConnectionError, HTTPClientError, urllib.error.URLError, OSError, http.client.HTTPException)

# Without a handler, Python would print the warnings of a library on the user's terminal.
logging.getLogger("cdk_inference.local").addHandler(logging.NullHandler())


class Health:
    """Remembers which part of an embedded AWS ended first, and why.

    Parameters
    ----------
    log
        File to which the parts report, besides Python's logging. Default: none.
    kept
        Folder for a copy of the log of the part that failed. Default: the folder for temporary files.
    """

    def __init__(self, log: Path | None = None, *, kept: Path | None = None) -> None:
        self.logger = _logger(log)
        self._log = log
        self._kept = kept
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._told = False

    @property
    def failure(self) -> str | None:
        """The part that ended first, with its reason and its log; None while everything runs."""
        return self._failure

    @property
    def unreported(self) -> bool:
        """Whether something failed and no ``check`` has raised it yet."""
        return self._failure is not None and not self._told

    def check(self) -> None:
        """Raise if a part has ended.

        Raises
        ------
        LocalError
            With the reason, and the place of the log.
        """
        if self._failure is not None:
            self._told = True
            raise LocalError(self._failure)

    def fail(self, reason: str, *, log: Path | None = None) -> None:
        """Record that a part has ended; what fails after the first part is a consequence of it.

        Parameters
        ----------
        reason
            Which part ended, and why.
        log
            Its log. Default: the one to which the parts report.
        """
        with self._lock:
            if self._failure is None:
                self.logger.error("%s", reason)
                copy = self._keep(log if log is not None else self._log)
                self._failure = reason if copy is None else f"{reason}; its log: {copy}"

    def ended(self, part: str, error: BaseException) -> None:
        """Record that a part has ended with an error.

        Parameters
        ----------
        part
            Name of the part, such as ``"pipe orders"``.
        error
            The error that it raised.
        """
        if self._failure is None:
            self.logger.error("%s raised", part, exc_info=error)
        self.fail(f"{part} ended unexpectedly: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the log."""
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()

    def _keep(self, log: Path | None) -> Path | None:
        """Copy a log out of the folder that is removed at the end, and return the copy."""
        if log is None or not log.is_file():
            return None
        if self._kept is not None:
            copy = self._kept / log.name
        else:
            copy = Path(tempfile.gettempdir()) / f"{log.parent.name}-{log.name}"
        try:
            copy.touch(0o600)  # it may name what only this user may see
            shutil.copyfile(log, copy)
        except OSError as error:  # such as a full disk: the reason is worth more than the log
            self.logger.warning("cannot keep %s: %s", log, error)
            return None
        return copy


@contextmanager
def answering(check: Callable[[], None]) -> Iterator[None]:
    """Explain why the embedded AWS does not answer.

    Parameters
    ----------
    check
        Raises `LocalError` if a part of it has ended.

    Raises
    ------
    LocalError
        If a part has ended, or nothing answers.
    """
    check()
    try:
        yield
    except (BotoCoreError, ResponseParserError, *_UNANSWERED) as error:
        if isinstance(error, OSError) and error.filename is not None:  # a file of the caller
            raise
        deadline = time.monotonic() + _NOTICE_SECONDS
        while isinstance(error, _UNANSWERED) and time.monotonic() < deadline:
            check()
            time.sleep(0.05)
        check()
        if isinstance(error, _UNANSWERED):
            raise LocalError(f"the embedded AWS cannot be reached: {error}") from error
        raise


class _Relay(logging.Handler):
    """Passes records on to a logger, if that one wants them."""

    def __init__(self, to: logging.Logger) -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        if self._to.isEnabledFor(record.levelno):
            self._to.handle(record)


def _logger(file: Path | None) -> logging.Logger:
    """Return a logger that writes into a file, and passes on to the logger of this package.

    It is not one that Python keeps by name: two embedded AWSs in one process report apart.
    """
    made = logging.Logger("cdk_inference.local.emulator.parts", logging.INFO)
    made.addHandler(_Relay(logging.getLogger("cdk_inference.local")))
    if file is not None:
        handler = logging.FileHandler(file, encoding="utf-8")
        formatter = logging.Formatter("%(asctime)s.%(msecs)03d+00:00 %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        made.addHandler(handler)
    return made
