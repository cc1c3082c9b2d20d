"""A model gets no longer texts than it takes: the synth runs it once on as many tokens as there may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import aws_cdk as cdk
import onnx
import pytest
from onnx.parser import parse_model

from cdk_inference import DirectPipeline, LambdaPlatform, ModelArtifact, Postprocess, Preprocess, PropError, Route
from cdk_inference.model import measurement
from cdk_inference.model.files import weights
from cdk_inference.routing.packaged import packaged
from cdk_inference.stages import longest_text
from cdk_inference.stages.longest_text import check_longest_text

if TYPE_CHECKING:
    from collections.abc import Callable

WRITER = Path(__file__).parents[2] / "e2e" / "triggers" / "app" / "writer"
TOKENIZER = WRITER / "tokenizer.json"

RECIPE = """
from cdk_inference.model import Evaluation, Float32, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="places",
    source=OnnxFile("model.onnx"),
    precision=Float32(),
    inputs=(TensorSpec("input_ids", "int64", ("batch", "tokens")),),
    outputs=(TensorSpec("scores", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="data.py:batches", metric="cosine"),
    provenance=Provenance(license="CC0-1.0", origin="made for these tests"),
)
"""
DATA = """
import numpy as np

def batches():
    yield {"input_ids": np.arange(8).reshape(2, 4) % 3}
"""
# The place of a token counts, and it is looked up in a table.
MODEL = """
<ir_version: 10, opset_import: ["": 18]>
places (int64[batch, tokens] input_ids) => (float[batch, 2] scores)
<float[{words}, 2] words = {{{word_values}}}, float[{places}, 2] places = {{{place_values}}},
 int64 one = {{1}}, int64 zero = {{0}}, int64[1] axis = {{1}}> {{
  sizes = Shape(input_ids)
  count = Gather(sizes, one)
  numbers = Range(zero, count, one)
  place = Gather(places, numbers)
  word = Gather(words, input_ids)
  both = Add(word, place)
  scores = ReduceMean<keepdims = 0>(both, axis)
}}
"""

TRANSLATOR = """
from cdk_inference.model import Evaluation, Float32, Graph, Graphs, Greedy, ModelRecipe, OnnxFile, Provenance
from cdk_inference.model import TensorSpec

IDS, SCORES = TensorSpec("input_ids", "int64", ("batch", "tokens")), TensorSpec("scores", "float32", ("batch", 2))
RECIPE = ModelRecipe(
    name="translator",
    source=Graphs(
        {
            "encoder": Graph(OnnxFile("model.onnx"), inputs=(IDS,), outputs=(SCORES,)),
            "decoder": Graph(
                OnnxFile("decoder.onnx"),
                inputs=(TensorSpec("tokens", "int64", ("batch", 1)), SCORES),
                outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
            ),
        },
        driver=Greedy(start=0, end=1, max_steps=32, min_steps=1),
    ),
    precision=Float32(),
    inputs=(IDS,),
    outputs=(TensorSpec("tokens", "int64", ("batch", 32)),),
    evaluation=Evaluation(data="data.py:batches", metric="cosine"),
    provenance=Provenance(license="CC0-1.0", origin="made for these tests"),
)
"""
DECODER = """
<ir_version: 10, opset_import: ["": 18]>
writes (int64[batch, 1] tokens, float[batch, 2] scores) => (float[batch, 2] logits) {
  last = Cast<to = 1>(tokens)
  logits = Add(scores, last)
}
"""


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., ModelArtifact]:
    """Return a model with a number of words, and of places."""

    def make(words: int, places: int, recipe: str = RECIPE) -> ModelArtifact:
        (tmp_path / "recipe.py").write_text(recipe)
        (tmp_path / "data.py").write_text(DATA)
        values = [", ".join(str(number % 7) for number in range(2 * count)) for count in (words, places)]
        text = MODEL.format(words=words, places=places, word_values=values[0], place_values=values[1])
        onnx.save(parse_model(text), tmp_path / "model.onnx")
        onnx.save(parse_model(DECODER), tmp_path / "decoder.onnx")
        stack = cdk.Stack(cdk.App(), "Stack")
        return ModelArtifact(stack, "Model", recipe=tmp_path / "recipe.py", cache_dir=tmp_path / "cache")

    return make


def of_length(max_length: int) -> Preprocess:
    return Preprocess.text(tokenizer=TOKENIZER, max_length=max_length)


def check(model: ModelArtifact, max_length: int) -> None:
    check_longest_text(model, of_length(max_length), model.project)


def test_texts_longer_than_the_table_of_places_fail(
    built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(10, 100)
    check(model, 96)
    for _ in range(2):
        with pytest.raises(PropError) as failed:
            check(model, 8_192)
        assert str(failed.value).startswith(
            "max_length must be at most 100, the tokens that model 'places' takes, got 8,192; lower it ("
        )
        monkeypatch.setattr(measurement, "run_build", None)  # the second time, the answer is known


def test_a_machine_that_cannot_run_the_model_takes_what_is_known(built: Callable[..., ModelArtifact]) -> None:
    model = built(10, 100)
    assert model.project is not None
    check(model, 96)
    model.project = replace(model.project, missing=("onnxruntime",))
    check(model, 96)
    check(model, 112)


def test_a_model_of_a_registry_is_run_where_that_is_possible(
    built: Callable[..., ModelArtifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "other"))
    model = built(10, 100)
    monkeypatch.setattr(longest_text, "_RUNS_A_MODEL", ("no-such-distribution",))
    check_longest_text(model, of_length(112), None)
    monkeypatch.undo()
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "other"))
    check_longest_text(model, of_length(96), None)
    for _ in range(2):
        with pytest.raises(PropError, match="max_length must be at most 100, the tokens that model 'places' takes"):
            check_longest_text(model, of_length(112), None)
        monkeypatch.setattr(longest_text, "_MODULE", "no_such_module")  # the second time, the answer is known
    check_longest_text(model, of_length(128), None)  # a process that fails says nothing of the model


def test_an_image_and_a_device_get_no_longer_texts_either(built: Callable[..., ModelArtifact]) -> None:
    model = built(10, 100)
    pipeline = DirectPipeline(cdk.Stack(cdk.App(), "Stack"), "Texts", model=model, preprocess=of_length(96))
    route = Route("main", model=model, preprocess=of_length(112), postprocess=Postprocess.outputs())
    model.path = model.project = None  # as in a stack that CDK does not bundle
    with pytest.raises(PropError, match="max_length must be at most 100, the tokens that model 'places' takes"):
        packaged(pipeline, route, LambdaPlatform(), requirements="", name="image")


def test_a_large_model_is_not_run(built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(10, 100)
    monkeypatch.setattr(weights, "LARGE", 0)
    check(model, 112)


def test_a_model_that_fails_for_another_reason_is_left_alone(built: Callable[..., ModelArtifact]) -> None:
    check(built(3, 100), 256)


def test_an_answer_that_needs_more_places_than_there_are_fails() -> None:
    model = ModelArtifact(cdk.Stack(cdk.App(), "Stack"), "Model", recipe=WRITER / "recipe.py")
    check(model, 128)
    with pytest.raises(PropError) as failed:
        check(model, 144)
    assert str(failed.value).startswith(
        "max_length and max_steps must fit into the 161 tokens that model 'writer' takes, got 144 of the prompt and 24 "
        "of the answer; lower one of them ("
    )


def test_an_answer_takes_no_places_of_a_text_that_only_an_encoder_reads(built: Callable[..., ModelArtifact]) -> None:
    model = built(10, 100, TRANSLATOR)
    check(model, 96)
    with pytest.raises(PropError, match="max_length must be at most 100, the tokens that model 'translator' takes"):
        check(model, 112)
