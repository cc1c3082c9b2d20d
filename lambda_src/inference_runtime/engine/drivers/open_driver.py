"""Opens a model of several graphs: `driver.json` says which there are, and how they run together."""

from __future__ import annotations

import json
import os

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from inference_runtime.engine.interfaces import Session


def open_driver(path: str, open_graph: Callable[[str, bool], Session]) -> Session:
    """Return a session of a model with several graphs.

    Parameters
    ----------
    path
        The model's `driver.json`. A graph lies next to it, in a file of its name that ends in `.onnx`.
    open_graph
        Returns the session of a graph by its path. The second argument says whether the graph is repeated: the threads
        of one that runs once need not wait busily for what comes next.

    Raises
    ------
    StageError
        If it describes no driver.
    Exception
        Any error of `open_graph`.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes milliseconds to import
        description = json.load(file)
    folder = os.path.dirname(path)  # noqa: PTH120
    names = [entry["name"] for entry in description["graphs"]]
    sessions = {name: open_graph(os.path.join(folder, f"{name}.onnx"), name == names[-1]) for name in names}  # noqa: PTH118
    return make_driver(description, sessions)


def make_driver(description: Mapping[str, Any], sessions: Mapping[str, Session]) -> Session:
    """Return the driver that a description names, over sessions that are open.

    Raises
    ------
    StageError
        If there is no such driver.
    """
    kind = description["kind"]
    # Only the one that is wanted is imported.
    if kind == "search":
        from inference_runtime.engine.drivers.search import Search  # noqa: PLC0415

        return Search(description, sessions)
    if kind == "recurrent":
        from inference_runtime.engine.drivers.recurrent import Recurrent  # noqa: PLC0415

        return Recurrent(description, sessions)
    raise StageError(f'the model\'s driver is "{kind}", expected "search" or "recurrent": build the model again')
