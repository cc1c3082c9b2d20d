"""The errors this library raises, and how an uncaught one reaches the person at the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class InferenceError(Exception):
    """Base of every error raised by this library."""


class PropError(InferenceError):
    """A prop has a value that cannot work."""


class ModelBuildError(InferenceError):
    """The model could not be built, or did not pass its gate."""


_default_hook = sys.excepthook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print our own errors as one message: the traceback through jsii and CDK says nothing to the user."""
    if isinstance(error, InferenceError):
        sys.stderr.write(f"error: {error}\n")
    elif isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted; what is finished stays in the cache\n")
    else:
        _default_hook(kind, error, traceback)


if "CDK_OUTDIR" in os.environ:  # the CDK CLI runs us; whoever runs the app itself gets the traceback
    sys.excepthook = _hook
