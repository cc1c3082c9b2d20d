"""The errors this library raises, and how an uncaught one reaches the person at the terminal."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class InferenceError(Exception):
    """Base of every error raised by this library."""


class PropError(InferenceError):
    """A prop has a value that cannot work."""


class ModelBuildError(InferenceError):
    """The model could not be built, or did not pass its gate."""


class ModelGateError(ModelBuildError):
    """The model was built, and is not as good as its gate asks for."""


def hide_tracebacks() -> None:
    """Print errors of this library as one line, since tracebacks through jsii and CDK say little to the user.

    Call it at the top of ``app.py``. It has an effect when the CDK CLI runs the app; an app that you run yourself, such
    as in a debugger, keeps its tracebacks. All other errors are printed as before.
    """
    if "CDK_OUTDIR" in os.environ:
        sys.excepthook = partial(_print_briefly, sys.excepthook)


def _print_briefly(
    otherwise: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    if isinstance(error, InferenceError):
        sys.stderr.write(f"error: {error}\n")
    elif isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted; what is finished stays in the cache\n")
    else:
        otherwise(kind, error, traceback)
