"""Entry point: ``python -m cdk_inference.model.build FOLDER`` builds ``FOLDER/request.json`` into FOLDER.

Events go to standard output, one JSON object a line; what libraries print goes to standard error, the log.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe import ModelRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator


class Passes:
    """Times the passes of a build and reports each one when it is through."""

    def __init__(self, emit: Any) -> None:  # noqa: ANN401 - a text stream
        self._emit = emit
        self.current = "start"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Run the body as the named pass."""
        self.current, start = name, time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        self.event({"pass": name, "seconds": self.seconds[name]})

    def event(self, data: dict[str, object]) -> None:
        """Send one event to the parent."""
        self._emit.write(json.dumps(data) + "\n")
        self._emit.flush()


def _explain(error: BaseException, folder: Path) -> str:
    """Describe what went wrong first, torch wraps it in errors of its own, and the user's line that led to it."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        lines += [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder)]
        cause = error.__cause__
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    where = f" ({Path(lines[-1].filename).name} line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {reason}{where}"


def main(work: Path) -> int:
    """Build, and turn every failure into one message."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)  # libraries that print must not mix with the events
        passes = Passes(stream)
        request = json.loads((work / "request.json").read_text("utf-8"))
        recipe = ModelRecipe.from_data(request["recipe"])
        try:
            with passes("import"):
                try:
                    import onnx  # noqa: F401, PLC0415
                    import onnxruntime  # noqa: F401, PLC0415
                    import onnxscript  # noqa: F401, PLC0415
                    import torch  # noqa: F401, PLC0415
                except ImportError:
                    traceback.print_exc()
                    passes.event({"error": "missing extra"})
                    return 1
                from cdk_inference.model.build.steps import build  # noqa: PLC0415
            build(recipe, Path(request["folder"]), request["versions"], request["key"], work, passes)
        except ModelBuildError as error:
            traceback.print_exc()
            passes.event({"error": f"model '{recipe.name}': {error}"})
            return 1
        except Exception as error:
            traceback.print_exc()
            failure = f"{passes.current} failed with {_explain(error, Path(request['folder']))}"
            passes.event({"error": f"model '{recipe.name}': {failure}; the traceback is in {{log}}"})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
