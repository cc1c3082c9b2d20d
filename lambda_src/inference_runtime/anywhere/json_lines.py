"""Rows as lines of JSON, for whoever collects the output of a container."""

from __future__ import annotations

import json
import os
import sys
from threading import Lock
from typing import TYPE_CHECKING, TextIO

from inference_runtime.stages.answers import plain
from inference_runtime.stages.sinks import NotWrittenError

if TYPE_CHECKING:
    from typing import Any

    from inference_runtime.stages.rows import Attribute


def plain_row(attributes: dict[str, Attribute]) -> dict[str, Any]:
    """Return a row as JSON: numbers as such, and bytes in base64."""
    return {name: plain(value) for name, value in attributes.items()}


class JsonLinesSink:
    """A stream of lines, which cannot tell which rows it has: a replayed event gives its row again, with its `id`.

    Parameters
    ----------
    stream
        Where lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = Lock()

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Write a row as one line; see `sinks.ResultSink`."""
        line = json.dumps(plain_row(attributes), ensure_ascii=False) + "\n"
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except OSError as error:
            raise NotWrittenError(f"cannot write to standard output: {error}") from error
        return True


def standard_output() -> JsonLinesSink:
    """Return the standard output, which only rows go to from now on: logs go to the standard error."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return JsonLinesSink(stream)
