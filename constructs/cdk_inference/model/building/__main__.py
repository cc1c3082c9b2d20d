"""Entry point: ``python -m cdk_inference.model.building FOLDER`` does what ``FOLDER/request.json`` asks for.

Events go to standard output, one JSON object a line; what libraries print goes to standard error, the log.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.store import Store
from cdk_inference.errors import ModelBuildError, ModelGateError
from cdk_inference.model.process import MISSING_EXTRA
from cdk_inference.model.recipe.recipe import ModelRecipe
from cdk_inference.model.records.fingerprint import hash_code

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_MEMORY = "can't allocate memory"  # torch raises a RuntimeError
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(work: Path) -> int:
    """Do what is asked for, and turn every failure into one message."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interruption needs no traceback
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)  # libraries that print must not mix with the events
        request = json.loads((work / "request.json").read_text("utf-8"))
        recipe = ModelRecipe.from_data(request["recipe"])
        folder, cache = Path(request["folder"]), Path(request["cache"])
        passes = None
        try:
            try:
                run = _mode(request["mode"])
                from cdk_inference.model.building.passes import Passes  # noqa: PLC0415
                from cdk_inference.model.building.reads import Reads  # noqa: PLC0415
            except ImportError as error:
                raise ModelBuildError(f"{MISSING_EXTRA} ({error})") from error
            common = {
                "tools": request["tools"],
                "python": platform.python_version_tuple()[:2],
                "code": hash_code(recipe),
            }
            passes = Passes(Store(cache / "passes"), common, stream, Reads(folder))
            run(recipe, request, folder, cache, work, passes)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            current = passes.current if passes else "start"
            kind = ModelGateError if isinstance(error, ModelGateError) else ModelBuildError
            said = {"error": _message(error, recipe.name, current, request), "kind": kind.__name__}
            stream.write(json.dumps(said) + "\n")
            return 1
    return 0


def _mode(name: str) -> Callable[..., None]:
    if name == "answers":
        from cdk_inference.model.building.evaluation.answers import answer  # noqa: PLC0415 - without what only builds need

        return answer
    if name == "baseline":
        from cdk_inference.model.building.evaluation.baseline import count  # noqa: PLC0415 - the same

        return count
    if ":" in name:  # of what needs the data of a recipe, and does not build
        module, _, function = name.partition(":")
        found: Callable[..., None] = getattr(import_module(module), function)
        return found
    from cdk_inference.model.building import steps  # noqa: PLC0415

    return {"build": steps.build, "compare": steps.compare_all, "evaluate": steps.evaluate}[name]


def _message(error: Exception | SystemExit, name: str, current: str, request: dict[str, Any]) -> str:
    """Return one line that says what went wrong, where, and what to do."""
    if isinstance(error, ModelBuildError):
        return f"model '{name}': {error}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"model '{name}': {current} failed: {error.strerror} (the cache is {request['cache']}); make room, "
            'or clear the cache with "python -m cdk_inference.model cache clear"'
        )
    explained, cause = _explain(error, Path(request["folder"]))
    if isinstance(cause, MemoryError) or _NO_MEMORY in str(cause):
        return f"model '{name}': {current} must fit into memory, got {explained}; build on a machine with more memory"
    return f"model '{name}': {current} failed with {explained}; the traceback is in {{log}}"


def _explain(error: BaseException, folder: Path) -> tuple[str, BaseException]:
    """Describe what went wrong first, torch wraps it in its errors, and the user's line that led to it; return both."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        lines += [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder)]
        cause = error.__cause__
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    where = f" ({Path(lines[-1].filename).name} line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {reason}{where}", error


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
