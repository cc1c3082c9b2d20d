"""Runs a deployed model on more and more tokens. This needs no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.model.building.evaluation.driven import Driven
from cdk_inference.model.building.evaluation.opening import open_model
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.files import weights
from cdk_inference.model.files.packed import DRIVER
from cdk_inference.model.records.manifest import Manifest

if TYPE_CHECKING:
    from cdk_inference.model.building.evaluation.session import Opened
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from cdk_inference.model.recipe.tensors import TensorSpec

_WORDS = (2, 3)
"""Tokens of the texts. Vocabularies have padding before them, whose place some models leave out."""

_FEWEST = 8
"""The least that preprocessing can have as the most tokens."""

_REASON = 300  # characters
_AHEAD = "Status Message: "  # ends what onnxruntime says of every error


def run_longest(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, work: Path, passes: Passes
) -> None:
    """Write what `write_longest` does, as a build process."""
    del folder, cache
    with passes.timed("longest text"):
        write_longest(recipe.inputs, request, work)


def write_longest(inputs: tuple[TensorSpec, ...], request: dict[str, Any], work: Path) -> None:
    """Write ``longest.json``: how many tokens the model takes, up to those that are wanted, and why it takes no more.

    A model that does not run on the fewest tokens either fails for another reason than their number.
    """
    session = _opened(Path(request["model"]))
    most, beyond = request["wanted"], request["wanted"]
    reason = _fails(session, inputs, beyond)
    if reason is not None and _fails(session, inputs, _FEWEST) is None:
        most = _FEWEST
        while beyond - most > 1:
            middle = (most + beyond) // 2
            most, beyond = (middle, beyond) if _fails(session, inputs, middle) is None else (most, middle)
    (work / "longest.json").write_text(json.dumps({"most": most, "reason": reason}), "utf-8")


def _opened(file: Path) -> Opened:
    """Return a session. A model that writes takes one step, which reads all tokens: places count, and not steps."""
    model = weights.whole(file)
    if file.name != DRIVER:
        return open_model(model)
    description, graphs = weights.parts(model)
    once = {**description, "max_steps": 1, "min_steps": 0}
    return Driven.of_sessions(once, {name: open_session(graph) for name, graph in graphs.items()})


def _fails(session: Opened, inputs: tuple[TensorSpec, ...], tokens: int) -> str | None:
    """Return why the model does not run on a number of tokens; None if it does."""
    try:
        session.run(None, {spec.name: _values(spec, tokens) for spec in inputs})
    except Exception as error:
        return str(error).strip().splitlines()[0].rpartition(_AHEAD)[2][:_REASON]
    return None


def _values(spec: TensorSpec, tokens: int) -> np.ndarray[Any, Any]:
    """Return what an input is for a text of words alone."""
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else 1
    if len(spec.shape) == 1:
        return np.ones(batch, spec.dtype)
    if spec.name != "input_ids":
        return np.full((batch, tokens), spec.name == "attention_mask", spec.dtype)
    return np.resize(np.array(_WORDS, spec.dtype), (batch, tokens))


def main(work: Path) -> None:
    """Do the same for a model of a registry: a request comes in, and its manifest says what it takes."""
    request = json.load(sys.stdin)
    manifest = Path(request["model"]).with_name("manifest.json")
    write_longest(Manifest.from_json(manifest.read_text("utf-8")).inputs, request, work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
