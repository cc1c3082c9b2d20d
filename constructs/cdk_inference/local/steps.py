"""Progress on the terminal: what is being done and for how long; plain lines without a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from cdk_inference.common.escaping import clean_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

_SHOWN = 300  # characters of a line; what the terminal has no room for is cut


class Steps:
    """Steps that follow each other.

    Parameters
    ----------
    console
        Where to show them.
    plan
        How the steps that are to come begin, such as ``"synthesizing"``. Each of them says which of how many it is.

    Attributes
    ----------
    seconds
        How long each step took that has ended, by its name.
    """

    def __init__(self, console: Console, plan: Sequence[str] = ()) -> None:
        self._console = console
        self._plan = plan
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            # The rest of the width, so that a long line leaves the others theirs.
            TextColumn("[dim]{task.fields[line]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._step = ""
        self._began = 0.0
        self.seconds: dict[str, float] = {}

    def begin(self, step: str) -> None:
        """End the step before, and begin the next.

        Parameters
        ----------
        step
            The step in progress, such as ``"synthesizing the app"``.
        """
        self._end("done")
        self._step, self._began = step, time.monotonic()
        numbers = [number for number, start in enumerate(self._plan, 1) if step.startswith(start)]
        shown = f"{numbers[0]}/{len(self._plan)} {step}" if numbers else step
        if self._console.is_terminal:
            self._task = self._progress.add_task(escape(shown), total=None, line="")
        else:
            self._console.print(f"{shown} ...", markup=False)

    def line(self, line: str) -> None:
        """Show the last line of output next to the step.

        Parameters
        ----------
        line
            The line.
        """
        if self._task is not None and line.strip():
            self._progress.update(self._task, line=escape(line.strip()[:_SHOWN]), refresh=True)

    def tell(self, failure: object) -> None:
        """Print an error of user code above the step that goes on.

        Parameters
        ----------
        failure
            The error.
        """
        self._console.print(clean_lines(str(failure)), markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end("done" if error is None else "failed")
        self._progress.stop()

    def _end(self, how: str) -> None:
        if not self._step:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self.seconds[self._step] = time.monotonic() - self._began
        self._console.print(f"{self._step}: {how} after {self.seconds[self._step]:.1f} s", markup=False)
        self._step = ""
