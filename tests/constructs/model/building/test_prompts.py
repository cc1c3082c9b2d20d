"""A language model that writes, with a cache of keys and values: built, judged and run as a plain loop in PyTorch."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import BuiltModel, WeightOnly, build_model
from cdk_inference.model.building.evaluation.opening import open_file
from cdk_inference.model.building.evaluation.texts import read_tokens
from cdk_inference.model.files import weights

if TYPE_CHECKING:
    from cdk_inference.model import ModelRecipe

FOLDER = Path(__file__).parents[3] / "e2e" / "triggers" / "app" / "writer"
END, ENDS, NEVER, STEPS = 2, (2, 3), [0, 1], 24
TEXTS = ("say hello", "is it going to rain tomorrow?", "größer", "no", "how do you do?")


def recipe(**changes: Any) -> ModelRecipe:
    made: ModelRecipe = runpy.run_path(str(FOLDER / "recipe.py"))["RECIPE"]
    return replace(made, **changes)


@pytest.fixture(scope="module")
def built() -> BuiltModel:
    return build_model(recipe(), folder=FOLDER)


def prompts(texts: tuple[str, ...], most: int, *, left: bool = False) -> dict[str, np.ndarray]:
    rows = [[4 + byte for byte in text.encode()] for text in texts]
    width = max(map(len, rows))
    filled = [[0] * (width - len(row)) for row in rows]
    tokens = [[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, filled, strict=True)]
    ids = np.array(tokens, np.int64)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).astype(np.int64),
        "max_tokens": np.full(len(texts), most, np.int64),
        "temperature": np.zeros(len(texts), np.float32),
        "seed": np.zeros(len(texts), np.int64),
    }


def said_by_a_plain_loop(texts: tuple[str, ...]) -> list[list[int]]:
    """Answer without a cache, without a batch and without ONNX."""
    import torch

    writer = runpy.run_path(str(FOLDER / "factory.py"))["build"]().eval()
    empty = torch.zeros(1, 2, 0, 16)
    answers = []
    for text in texts:
        known = [4 + byte for byte in text.encode()]
        said: list[int] = []
        while len(said) < STEPS:
            ids = torch.tensor([[*known, *said]])
            with torch.inference_mode():
                logits = writer(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], *[empty] * 4)[0][0]
            allowed = logits.numpy().copy()
            allowed[NEVER] = -np.inf
            if (token := int(np.argmax(allowed))) in ENDS:
                break
            said.append(token)
        answers.append(said)
    return answers


def test_each_prompt_of_a_batch_is_answered_as_a_plain_loop_answers_it(built: BuiltModel) -> None:
    wanted = said_by_a_plain_loop(TEXTS)
    assert len({len(each) for each in wanted}) > 1
    model = open_file(weights.entry(built.path), 1)
    for left in (False, True):
        tokens, lengths, scores = model.run(["tokens", "lengths", "scores"], prompts(TEXTS, STEPS, left=left))
        assert tokens.tolist() == [[*each, *[END] * (STEPS - len(each))] for each in wanted]
        assert lengths.tolist() == [len(each) for each in wanted]
        assert (scores < 0).all()
    tokens, lengths = model.run(["tokens", "lengths"], prompts(TEXTS, 5))
    assert [row[:count] for row, count in zip(tokens.tolist(), lengths, strict=True)] == [each[:5] for each in wanted]


def test_the_gate_judges_the_text(built: BuiltModel) -> None:
    metric = built.manifest.metric
    assert metric is not None
    assert (metric.name, metric.quantized, metric.samples) == ("exact_match", 1.0, 6)


def test_its_weights_may_be_in_blocks_of_four_bits(tmp_path: Path) -> None:
    evaluation = replace(recipe().evaluation, max_drop=1)
    small = build_model(
        recipe(name="small-writer", precision=WeightOnly(bits=4), evaluation=evaluation),
        folder=FOLDER,
        cache=tmp_path / "cache",
    )
    tokens, lengths = open_file(weights.entry(small.path), 1).run(["tokens", "lengths"], prompts(TEXTS, STEPS))
    assert ((tokens >= 2) & (tokens < 260)).all()
    assert (lengths <= STEPS).all()
    assert small.manifest.precision == "weight_only"
    operators = [node.op_type for node in onnx.load(next(small.path.glob("*.onnx"))).graph.node]
    assert operators.count("GroupQueryAttention") == 2


@pytest.mark.parametrize("content", ['{"model": {"type": "Unigram", "vocab": []}}', "not JSON"])
def test_another_tokenizer_than_one_of_bytes_cannot_judge(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ModelBuildError, match=r"evaluation.vocabulary must be a file of tokens, got 'tokenizer.json'"):
        read_tokens(file)


def test_prompts_that_are_too_short_to_be_traced_are_refused(tmp_path: Path) -> None:
    for file in FOLDER.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    data = (tmp_path / "data.py").read_text("utf-8")
    short = data.replace("for byte in text.encode()]", "for byte in text.encode()[:3]]")
    (tmp_path / "data.py").write_text(short, "utf-8")
    with pytest.raises(ModelBuildError, match="must begin with prompts of 4 tokens or more, got 3"):
        build_model(recipe(name="short"), folder=tmp_path, cache=tmp_path / "cache")
