"""Tracebacks that show the user's own code, and nothing of what is around it."""

from __future__ import annotations

import site
import sysconfig
import traceback
from pathlib import Path

import inference_runtime

_PATHS = sysconfig.get_paths()
_OTHERS = tuple(
    Path(folder).resolve()
    for folder in (
        *(_PATHS[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        site.getusersitepackages(),
        str(Path(__file__).parents[1]),
        str(Path(inference_runtime.__file__).parent),
    )
)
"""Folders of Python, of installed packages, and of ours."""


def user_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, with the frames of the user's files only.

    An error without such a frame has its last line alone.
    """
    told = traceback.TracebackException.from_exception(error)
    _trim(told)
    return "".join(told.format())


def has_user_frames(error: BaseException) -> bool:
    """Tell whether some of an error was raised in a file of the user's."""
    return any(_is_users(frame.filename) for frame in traceback.extract_tb(error.__traceback__))


def _trim(told: traceback.TracebackException | None) -> None:
    if told is None:
        return
    frames = [frame for frame in told.stack if _is_users(frame.filename)]
    # Without a stack, there is no headline of one either.
    told.stack = traceback.StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
    _trim(told.__cause__)
    _trim(told.__context__)
    for each in told.exceptions or ():
        _trim(each)


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    file = Path(filename).resolve()
    return not any(file.is_relative_to(folder) for folder in _OTHERS)
