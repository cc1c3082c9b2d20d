"""Exports models of several graphs: each by itself, on what it is asked while the original model runs."""

from __future__ import annotations

import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.driven import Driven, Recording, record
from cdk_inference.model.building.evaluation.evaluate import check_outputs, load_outputs, predict, save_outputs
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.ranking import append_ranking, rank
from cdk_inference.model.building.importers.independence import check_independence
from cdk_inference.model.building.importers.sources import load
from cdk_inference.model.building.tidying import tidied
from cdk_inference.model.recipe.drivers import NEXT_SCORES, NEXT_TOKENS, Search
from inference_runtime.engine.session import TensorInfo
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.importers.sources import Loaded
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.graphs import Graph, Graphs
    from cdk_inference.model.recipe.recipe import ModelRecipe

_LEAST_PART = 2  # tokens of a prompt: tracing takes a size of 1 for a constant


class _Original:
    """A graph in its own framework, as the session that a driver runs.

    Parameters
    ----------
    loaded
        The graph.
    declared
        Its inputs and outputs.
    deployed
        The same, with the likeliest tokens in place of a decoder's logits.
    driver
        Says how they are ranked.
    """

    def __init__(self, loaded: Loaded, declared: Graph, deployed: Graph, driver: object) -> None:
        self.loaded = loaded
        self._declared = declared
        self._driver = driver
        self.deadline = float("inf")
        self.inputs = [TensorInfo(spec.name, spec.dtype, spec.shape) for spec in deployed.inputs]
        self.outputs = [TensorInfo(spec.name, spec.dtype, spec.shape) for spec in deployed.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs in order."""
        arrays = self.loaded.run({spec.name: inputs[spec.name].array() for spec in self._declared.inputs})
        named = {spec.name: array for spec, array in zip(self._declared.outputs, arrays, strict=True)}
        driver = self._driver
        if isinstance(driver, Search) and driver.logits in named:
            logits = named.pop(driver.logits)
            places = driver.candidates(logits.shape[-1])
            named[NEXT_SCORES], named[NEXT_TOKENS] = rank(logits, places, driver.never)
        return [Tensor.of(np.ascontiguousarray(named[value.name])) for value in self.outputs]

    def close(self) -> None:
        """Do nothing: the framework's model goes with its last reference."""


def export_graphs(
    recipe: ModelRecipe,
    source: Graphs,
    folder: Path,
    cache: Path,
    example: Batch,
    target: Path,
    on_bytes: Callable[[int, int], None],
) -> None:
    """Run the original on an example, and write each graph with what it was asked and answered.

    Raises
    ------
    ModelBuildError
        If a graph cannot be loaded, run or exported.
    """
    deployed = source.deployed()
    originals = {}
    for name, graph in source.graphs.items():
        loaded = load(graph, graph.source, folder, cache, on_bytes=on_bytes)
        originals[name] = _Original(loaded, graph, deployed[name], source.driver)
    del loaded
    sessions = {name: Recording(original) for name, original in originals.items()}
    model = Driven(source.describe(recipe.inputs, recipe.outputs), sessions)
    check_outputs(model.run(None, example), recipe, example, "the original, evaluation batch 0")
    asked = record(model, sessions, [example])
    if isinstance(source.driver, Search) and source.driver.mask:
        *_, step = source.graphs
        asked[step] = _with_prompts(asked[step], source.step, source.driver, originals[step].loaded)
    del model, sessions
    for name, graph in source.graphs.items():
        loaded = originals.pop(name).loaded
        answers = [loaded.run(batch) for batch in asked[name]]
        last = _latest_full(asked[name], name)
        check_independence(loaded, graph, asked[name][last], answers[last])
        save_outputs(target / f"{name}.expected.npz", answers)
        save_outputs(
            target / f"{name}.asked.npz", [[batch[spec.name] for spec in graph.inputs] for batch in asked[name]]
        )
        with TemporaryDirectory(dir=target) as work:
            exported = loaded.export(asked[name][last], Path(work))
            del loaded  # its weights, before those of the graph are written
            gc.collect()  # traces refer to themselves, and to the weights
            aside.write(exported, target, name)


def tidy_graphs(
    recipe: ModelRecipe, source: Graphs, original: Path, target: Path, work: Path, example: Batch
) -> tuple[Model, float]:
    """Return the graphs that `export_graphs` wrote, cleaned, as one model, and the least of their likenesses.

    Parameters
    ----------
    recipe, source
        The recipe and its source.
    original
        The folder with what `export_graphs` wrote.
    target
        The folder for the files of a large model.
    work
        A folder for temporary files.
    example
        A batch of inputs.

    Raises
    ------
    ModelBuildError
        If a graph does not compute what the original does.
    """
    parities: list[float] = []
    graphs: dict[str, Model] = {}
    driver = source.driver
    for name, declared in source.graphs.items():
        names = [spec.name for spec in declared.inputs]
        asked = load_outputs(original / f"{name}.asked.npz")
        batches = [dict(zip(names, arrays, strict=True)) for arrays in asked]
        expected = load_outputs(original / f"{name}.expected.npz")
        (folder := work / name).mkdir()
        graph, parity = tidied(original / f"{name}.onnx", declared, batches, expected, folder)
        if declared is source.step and isinstance(driver, Search):
            size = next(spec.shape[-1] for spec in declared.outputs if spec.name == driver.logits)
            append_ranking(graph, driver.logits, driver.candidates(int(size)), driver.never)
            graph = clean(graph)
        parities.append(parity)
        graphs[name] = aside.save(graph, folder / "ended") if aside.is_aside(graph) else serialize(graph)
    model = aside.gathered(source.describe(recipe.inputs, recipe.outputs), graphs, target)
    predict(model, recipe, [example], "the exported model")
    return model, min(parities)


def _with_prompts(asked: Sequence[Batch], graph: Graph, driver: Search, loaded: Loaded) -> list[Batch]:
    """Return what a decoder is asked about prompts, as it can be traced and compared.

    A place that is filled up attends to nothing, which each framework computes in another way, and which no answer
    depends on. So prompts that are filled up are left out. If there is a cache, a call is added that reads the second
    half of prompts. No other call has several tokens and a cache that holds some. Tracing needs to see both.

    Raises
    ------
    ModelBuildError
        If the prompts are too short.
    """
    found = [_filled(batch, driver) for batch in asked]
    if not driver.states:
        return found
    prompts = found[0]
    cut = prompts[driver.tokens].shape[1] // 2
    if cut < _LEAST_PART:
        raise ModelBuildError(
            f"evaluation.data must begin with prompts of {2 * _LEAST_PART} tokens or more, got "
            f"{prompts[driver.tokens].shape[1]}; put samples with longer prompts first"
        )
    first = {**prompts, **{name: prompts[name][:, :cut] for name in driver.own_inputs}}
    outputs = dict(zip([spec.name for spec in graph.outputs], loaded.run(first), strict=True))
    states = {name: outputs[output] for output, name in driver.states.items()}
    second = {name: prompts[name][:, cut:] for name in driver.own_inputs if name != driver.mask}
    return [*found, {**prompts, **states, **second}]


def _filled(batch: Batch, driver: Search) -> Batch:
    """Return a call without the rows that are filled up, if it has several tokens."""
    if batch[driver.tokens].shape[1] == 1:
        return batch
    rows = batch[driver.mask].all(axis=1)  # type: ignore[index] # where there are prompts, there is a mask
    return {name: array[rows] for name, array in batch.items()}


def _latest_full(asked: Sequence[Batch], name: str) -> int:
    """Return the number of the last call without empty inputs: tracing takes a size of 0 for a constant."""
    full = [number for number, batch in enumerate(asked) if all(array.size for array in batch.values())]
    if not full:
        raise ModelBuildError(
            f"evaluation.data must begin with samples that take graph '{name}' several steps, got empty inputs alone, "
            "such as caches that hold nothing; put samples with longer answers first"
        )
    return full[-1]
