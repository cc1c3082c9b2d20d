"""Recipes of several graphs: what fits together is data, and what does not is refused with its field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    Beam,
    DynamicInt8,
    Evaluation,
    Float32,
    Graph,
    Graphs,
    Greedy,
    ModelRecipe,
    OnnxFile,
    PackageFile,
    PerGraph,
    Provenance,
    Recurrent,
    Sampling,
    StaticInt8,
    TensorSpec,
)

ENCODER = Graph(
    OnnxFile(PackageFile("some-package", "encoder.onnx")),
    inputs=(TensorSpec("source", "float32", ("batch", 3)),),
    outputs=(TensorSpec("memory", "float32", ("batch", 8)),),
)
DECODER = Graph(
    OnnxFile("decoder.onnx"),
    inputs=(
        TensorSpec("tokens", "int64", ("batch", 1)),
        TensorSpec("heard", "float32", ("batch", 8)),
        TensorSpec("past", "float32", ("batch", "before", 8)),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 7)), TensorSpec("present", "float32", ("batch", "after", 8))),
    reads={"heard": "memory"},
)
GREEDY = Greedy(start=1, end=2, max_steps=9, states={"present": "past"})
PROMPTED = Greedy(
    end=(2, 3), max_steps=9, prompt="asked", mask="counts", limit="most", position="place", states={"present": "past"}
)
SAMPLED = Sampling(
    end=(2, 3),
    max_steps=9,
    temperature=0.7,
    top_k=5,
    prompt="asked",
    mask="counts",
    limit="most",
    seed_input="seed",
    position="place",
    states={"present": "past"},
)
SEED = TensorSpec("seed", "int64", ("batch",))
WINDOW = Graph(
    OnnxFile("window.onnx"),
    inputs=(TensorSpec("sound", "float32", ("batch", 5)), TensorSpec("state", "float32", ("batch", 1))),
    outputs=(TensorSpec("next", "float32", ("batch", 1)), TensorSpec("speech", "float32", ("batch", 2))),
)
RECURRENT = Recurrent(over="sound", chunk=4, context=1, states={"next": "state"}, outputs={"speech": "each"})


def recipe(source: Graphs | None = None, **changes: Any) -> ModelRecipe:
    fields = {
        "name": "several",
        "source": source or Graphs({"encoder": ENCODER, "decoder": DECODER}, GREEDY),
        "inputs": (TensorSpec("source", "float32", ("batch", 3)),),
        "outputs": (TensorSpec("tokens", "int64", ("batch", 9)), TensorSpec("scores", "float32", ("batch",))),
        "evaluation": Evaluation("data.py:evaluation", "exact_match", vocabulary="tokens.txt"),
        "provenance": Provenance("CC0-1.0", "nobody"),
        **changes,
    }
    return ModelRecipe(**fields)  # type: ignore[arg-type]


def writer(
    driver: Greedy | Sampling = PROMPTED,
    steps: int | str = "steps",
    prompt: str = "int64",
    more: tuple[TensorSpec, ...] = (),
) -> ModelRecipe:
    """Return the recipe of a decoder alone, which begins with prompts."""
    graph = Graph(
        OnnxFile("writer.onnx"),
        inputs=(
            TensorSpec("tokens", "int64", ("batch", steps)),
            TensorSpec("counts", "int64", ("batch", "before + steps")),
            TensorSpec("place", "int64", ("batch", steps)),
            TensorSpec("past", "float32", ("batch", "before", 8)),
        ),
        outputs=DECODER.outputs,
    )
    return recipe(
        Graphs({"writer": graph}, driver),
        inputs=(
            TensorSpec("asked", prompt, ("batch", "tokens")),
            TensorSpec("counts", "int64", ("batch", "tokens")),
            TensorSpec("most", "int64", ("batch",)),
            *more,
        ),
    )


@pytest.mark.parametrize(
    "made",
    [
        recipe(),
        writer(),
        writer(SAMPLED, more=(SEED,)),
        recipe(
            Graphs(
                {"encoder": ENCODER, "decoder": DECODER},
                Beam(start=(1, 3), end=2, max_steps=9, width=3, states={"present": "past"}),
            )
        ),
        recipe(
            Graphs({"window": WINDOW}, RECURRENT),
            inputs=(TensorSpec("sound", "float32", ("batch", "time")),),
            outputs=(TensorSpec("speech", "float32", ("batch", "windows", 2)),),
            evaluation=Evaluation("data.py:evaluation", "cosine"),
        ),
        recipe(
            precision=PerGraph({"encoder": StaticInt8(), "decoder": DynamicInt8(keep_float=("Gemm_1",))}),
            calibration="data.py:calibration",
        ),
    ],
)
def test_a_recipe_is_data(made: ModelRecipe) -> None:
    assert ModelRecipe.from_data(made.to_data()) == made
    assert isinstance(made.source, Graphs)
    prompted = made.to_data()["source"]["driver"].keys() & {"prompt", "mask", "limit"}
    assert len(prompted) == (3 if "writer" in made.source.graphs else 0)  # locks of before say nothing of them
    assert made.packages == (("some-package",) if "encoder" in made.source.graphs else ())


def test_a_recipe_of_one_graph_says_nothing_of_what_came_later() -> None:
    single = recipe(source=OnnxFile("m.onnx"), evaluation=Evaluation("data.py:evaluation"))  # type: ignore[arg-type]
    assert set(single.to_data()["evaluation"]).isdisjoint({"vocabulary", "blank", "sample_rate"})
    assert '"nan"' not in json.dumps([single.to_data(), recipe().to_data()])
    assert single.to_data()["source"] == {"kind": "onnx", "file": "m.onnx", "external_data": []}


def test_the_deployed_decoder_ranks_the_vocabulary() -> None:
    drawn = Sampling(start=1, end=2, max_steps=9, top_k=3, states={"present": "past"})
    expected = [
        (replace(GREEDY, min_steps=2), 2),
        (drawn, 3),
        (replace(drawn, min_steps=2), 4),
        (replace(drawn, top_k=50, never=(0, 0, 4)), 5),  # of a vocabulary of 7
    ]
    for driver, places in expected:
        source = Graphs({"encoder": ENCODER, "decoder": DECODER}, driver)
        names = [(spec.name, spec.shape) for spec in source.deployed()["decoder"].outputs]
        ranked = [("next_scores", ("batch", places)), ("next_tokens", ("batch", places))]
        assert names == [*ranked, ("present", ("batch", "after", 8))]
        assert source.deployed()["encoder"] == ENCODER


def test_the_description_of_a_driver_that_draws_is_that_of_a_search_with_the_numbers() -> None:
    made = writer(SAMPLED, more=(SEED,))
    assert isinstance(made.source, Graphs)
    described = made.source.describe(made.inputs, made.outputs)
    numbers = {"temperature": 0.7, "top_k": 5, "top_p": 1.0, "seed": 0, "inputs": {"seed": "seed"}}
    assert described.pop("sampling") == numbers
    assert described == Graphs(made.source.graphs, PROMPTED).describe(made.inputs, made.outputs)


def test_the_description_names_the_inputs_that_states_begin_with_and_no_others() -> None:
    source, state = (TensorSpec(name, "float32", ("batch", 1)) for name in ("source", "before"))
    outputs = (TensorSpec("speech", "float32", ("batch", "windows", 2)),)
    window = Graphs({"window": replace(WINDOW, reads={"state": "before"})}, RECURRENT)
    assert window.describe((source, state), outputs)["given"] == ["before"]
    assert "given" not in window.describe((source,), outputs)


def graphs(driver: Any = GREEDY, decoder: Graph = DECODER, **more: Any) -> Graphs:
    return Graphs({"encoder": ENCODER, "decoder": decoder, **more}, driver)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Greedy(start=(), end=2, max_steps=9), "'driver.start' must be a token from 0, or several as a tuple"),
        (
            lambda: Greedy(start=1, end=-2, max_steps=9),
            "'driver.end' must be a token from 0, or several as a tuple, got -2",
        ),
        (lambda: Greedy(start=1, end=(2, 2.5), max_steps=9), "'driver.end' must be a token from 0"),
        (lambda: Greedy(start=1, end=(), max_steps=9), "'driver.end' must be a token from 0"),
        (lambda: replace(PROMPTED, start=1), "'driver.start' must be left out with a prompt"),
        (lambda: replace(PROMPTED, mask=None), "'driver.mask' must be given with a prompt"),
        (lambda: replace(PROMPTED, limit="counts"), "must be different names of inputs of the model"),
        (lambda: replace(PROMPTED, never=(3,)), "'driver.never' must be without the end token 2, 3"),
        (lambda: writer(replace(PROMPTED, mask="tokens")), "'driver.mask' must be an input of the last graph"),
        (lambda: writer(replace(PROMPTED, position="past")), "int64 or int32 and shape .'batch', 'steps'."),
        (lambda: writer(PROMPTED, steps=1), "'driver.tokens' must be of a symbolic number of steps"),
        (lambda: writer(PROMPTED, prompt="float32"), "must be an input of the model of int64"),
        (lambda: Greedy(start=1, end=2, max_steps=0), "'driver.max_steps' must be a whole number from 1 to 10,000"),
        (lambda: Greedy(start=1, end=2, max_steps=9, min_steps=9), "'driver.min_steps' must be"),
        (lambda: Greedy(start=1, end=2, max_steps=9, never=(2,)), "'driver.never' must be without the end token 2"),
        (lambda: Greedy(start=1, end=2, max_steps=9, states={"a": "x", "b": "x"}), "'driver.states' must be a dict"),
        (
            lambda: Greedy(start=1, end=2, max_steps=9, whole_prefix=True, position="p"),
            "'driver.position' must be None",
        ),
        (lambda: replace(SAMPLED, temperature=-0.1), "'driver.temperature' must be a number from 0 to 100, got -0.1"),
        (lambda: replace(SAMPLED, temperature=float("nan")), "'driver.temperature' must be a number from 0 to 100"),
        (
            lambda: replace(SAMPLED, top_k=0),
            "must be a whole number from 1 to 1,000, got 0; less likely",
        ),
        (lambda: replace(SAMPLED, top_k=1_001), "'driver.top_k' must be a whole number from 1 to 1,000, got 1001"),
        (lambda: replace(SAMPLED, top_p=0), "'driver.top_p' must be a number above 0 and at most 1, got 0"),
        (lambda: replace(SAMPLED, top_p=1.1), "'driver.top_p' must be a number above 0 and at most 1"),
        (lambda: replace(SAMPLED, seed=2**63), r"'driver.seed' must be a whole number from 0 to 2\*\*63 - 1"),
        (
            lambda: replace(SAMPLED, top_p_input="seed"),
            "top_p_input/seed_input' must be different",
        ),
        (
            lambda: writer(SAMPLED),
            "input of the model of int64 and shape .'batch',., got 'seed'",
        ),
        (lambda: writer(replace(SAMPLED, temperature_input="seed", seed_input=None), more=(SEED,)), "model of float32"),
        (lambda: Beam(start=1, end=2, max_steps=9, width=1), "whole number from 2 to 64, got 1; use Greedy"),
        (lambda: Beam(start=1, end=2, max_steps=9, length_penalty=-1), "'driver.length_penalty' must be"),
        (lambda: replace(RECURRENT, chunk=0), "'driver.chunk' must be a whole number from 1"),
        (lambda: replace(RECURRENT, outputs={"speech": "some"}), "to one of each, joined, last"),
        (lambda: replace(RECURRENT, outputs={"next": "last"}), "'driver.outputs' must be outputs that are no states"),
        (lambda: Graphs({"window": WINDOW}, replace(RECURRENT, chunk=9)), "with 10 as the size of its second axis"),
        (lambda: graphs(replace(GREEDY, tokens="ids")), "'driver.tokens' must be an input of the last graph"),
        (lambda: graphs(replace(GREEDY, logits="scores")), "'driver.logits' must be an output"),
        (lambda: graphs(replace(GREEDY, position="tokens")), "'driver.position' must be an input of the last graph"),
        (
            lambda: graphs(replace(GREEDY, never=(0, 1, 3, 4, 5, 6))),
            "end/never' must be fewer than all 7 tokens",
        ),
        (lambda: graphs(replace(GREEDY, end=7)), "must be below 7, the size of the vocabulary, got 7"),
        (lambda: graphs(replace(GREEDY, states={"logits": "tokens"})), "an input of it of the same type"),
        (lambda: Graphs({"Encoder": ENCODER}, GREEDY), "'graphs' must be lower-case letters"),
        (lambda: Graphs({"model": ENCODER}, GREEDY), "none of model, driver, manifest"),
        (lambda: Graphs({}, GREEDY), "a dict of 1 to 16 Graph by name"),
        (lambda: replace(DECODER, reads={"memory": "x"}), "'graph.reads' must be a dict from some of the inputs"),
        (lambda: replace(ENCODER, inputs=(TensorSpec("x", "int8", (4, 3)),)), "batch first"),
        (lambda: replace(ENCODER, outputs=ENCODER.inputs), "tensors with different names"),
        (lambda: recipe(graphs(decoder=replace(DECODER, reads={}))), "'decoder.heard' must be an input of the model"),
        (lambda: recipe(inputs=(TensorSpec("source", "float64", ("batch", 3)),)), "'encoder.source' must be read from"),
        (
            lambda: recipe(inputs=(*recipe().inputs, TensorSpec("more", "int8", ("batch",)))),
            r"'inputs' must be read by a graph, got \['more'\]",
        ),
        (lambda: recipe(outputs=(TensorSpec("tokens", "int32", ("batch", 9)),)), "'outputs' must be one of what the"),
        (lambda: recipe(precision=PerGraph({"encoder": Float32()})), "'precision' must be one for each graph"),
        (lambda: recipe(precision=PerGraph({"encoder": Float32(), "decoder": StaticInt8()})), "given with StaticInt8"),
        (lambda: recipe(evaluation=Evaluation("d.py:e", "bleu")), "'vocabulary' must be given with metric 'bleu'"),
        (lambda: recipe(evaluation=Evaluation("d.py:e", blank=0)), "'blank' must be a token of the vocabulary"),
        (lambda: Evaluation("d.py:e", sample_rate=0), "'sample_rate' must be a whole number of Hz from 1"),
        (lambda: Evaluation("d.py:e", sample_rate=True), "'sample_rate' must be a whole number of Hz from 1"),
        (
            lambda: recipe(
                OnnxFile("m.onnx"),  # type: ignore[arg-type]
                inputs=(TensorSpec("x", "float32", ("batch",)),),
                evaluation=Evaluation("d.py:e", sample_rate=8_000),
            ),
            "'evaluation.sample_rate' must be None unless the first input has samples on its second axis, got 8000",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ModelBuildError, match=says):
        make()
