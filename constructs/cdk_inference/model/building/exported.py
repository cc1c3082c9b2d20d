"""Exports what a recipe names, and cleans it: the float model that all trials begin with."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import hash_file
from cdk_inference.model.building.evaluation.data import digest_batches
from cdk_inference.model.building.evaluation.evaluate import check_outputs, load_outputs, save_outputs
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.importers.independence import check_independence
from cdk_inference.model.building.importers.sources import load
from cdk_inference.model.building.tidying import tidied
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.graphs import Graphs
from cdk_inference.model.recipe.structure import unstructure

if TYPE_CHECKING:
    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe


def exported(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, example: Batch, passes: Passes
) -> tuple[Path, float]:
    """Return the file that the float model is opened by, and the cosine similarity of its outputs to the original's.

    Parameters
    ----------
    recipe
        The recipe.
    request
        The request that the build process was given.
    folder, cache
        The recipe's folder, and the cache root.
    example
        A batch of inputs.
    passes
        Caches both passes.

    Raises
    ------
    ModelBuildError
        If it cannot be exported, or computes something else then.
    """

    def export(target: Path) -> None:
        if isinstance(recipe.source, Graphs):
            from cdk_inference.model.building.importers.several import export_graphs  # noqa: PLC0415 - few models

            export_graphs(recipe, recipe.source, folder, cache, example, target, passes.received)
        else:
            loaded = load(recipe, recipe.source, folder, cache, on_bytes=passes.received)
            expected = loaded.run(example)
            check_outputs(expected, recipe, example, "the original, evaluation batch 0")
            check_independence(loaded, recipe, example, expected)
            save_outputs(target / "expected.npz", [expected])
            with TemporaryDirectory(dir=target) as work:
                model = loaded.export(example, Path(work))
                del loaded  # its weights, before those of the graph are written
                gc.collect()  # traces refer to themselves, and to the weights
                aside.write(model, target)
        passes.check_files(folder, recipe, request["files"])

    tensors = [unstructure(spec) for spec in (*recipe.inputs, *recipe.outputs)]
    files = [request["files"], request["packages"]]
    depends = [recipe.to_data()["source"], tensors, files, digest_batches([example])]
    original = passes.cached("export", depends, export)

    def tidy(target: Path) -> None:
        if isinstance(recipe.source, Graphs):
            from cdk_inference.model.building.importers.several import tidy_graphs  # noqa: PLC0415 - few models

            with TemporaryDirectory(dir=target) as work:
                model, parity = tidy_graphs(recipe, recipe.source, original, target, Path(work), example)
            if isinstance(model, bytes):
                weights.write(target, model, aside=False)
        else:
            graph, parity = tidied(
                original / weights.MODEL, recipe, [example], load_outputs(original / "expected.npz"), target
            )
            aside.write(graph, target)
        (target / "parity.json").write_text(json.dumps(parity), "utf-8")

    digest = [hash_file(file) for kind in ("onnx", "weights") for file in sorted(original.glob(f"*.{kind}"))]
    cleaned = passes.cached("clean", [digest, depends[:2], digest_batches([example])], tidy)
    parity = float(json.loads((cleaned / "parity.json").read_text("utf-8")))
    return weights.entry(cleaned), parity
