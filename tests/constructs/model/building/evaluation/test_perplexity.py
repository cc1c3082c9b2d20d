"""Perplexity is what PyTorch's cross entropy says, and refuses what it could not judge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, TensorSpec, build_model
from cdk_inference.model.building.evaluation.data import Samples
from cdk_inference.model.building.evaluation.metrics import Judge
from cdk_inference.model.building.evaluation.perplexity import IGNORED
from cdk_inference.model.recipe.evaluation import limit, logits_output, passes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("torch")  # one process imports it

RECIPE = """
from cdk_inference.model import DynamicInt8, Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="bigrams",
    source=TorchModule("factory.py:build"),
    inputs=(TensorSpec("ids", "int64", ("batch", "steps")),),
    outputs=(TensorSpec("logits", "float32", ("batch", "steps", 64)),),
    precision=DynamicInt8(),
    evaluation=Evaluation("data.py:evaluation", "perplexity", max_drop=0.5),
    provenance=Provenance("CC0-1.0", "random numbers"),
)
"""
FACTORY = """
import torch

class Bigrams(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(64, 32), torch.nn.Linear(32, 64)

    def forward(self, ids):
        return self.head(self.embedding(ids))

def build():
    torch.manual_seed(0)
    return Bigrams().eval()
"""
DATA = """
import numpy as np

def evaluation():
    random = np.random.default_rng(0)
    for steps in (5, 9):
        ids = random.integers(0, 64, (8, steps))
        following = np.roll(ids, -1, axis=1)
        following[:, -1] = -100
        yield {"ids": ids}, following
"""

RIGHT = np.array([[1, 2, IGNORED], [0, IGNORED, IGNORED]])
OUTPUTS = (
    TensorSpec("tokens", "int64", ("batch", "steps")),
    TensorSpec("pooled", "float32", ("batch", 7)),
    TensorSpec("logits", "float32", ("batch", "steps", 7)),
)


def judge(labels: list[Any], reference: list[np.ndarray]) -> Judge:
    inputs = [{"ids": np.zeros(each.shape[:2], np.int64)} for each in reference]
    samples = Samples(inputs, labels, [None] * len(inputs))
    return Judge(Evaluation("d.py:f", "perplexity"), samples, outputs(reference), OUTPUTS)


def outputs(batches: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [[np.zeros(each.shape[:2], np.int64), np.zeros((len(each), 7), np.float32), each] for each in batches]


def logits(*shape: int, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=3),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    shift=st.sampled_from([0.0, -1e4, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_exponential_of_the_cross_entropy_of_pytorch(shapes, scale, shift, seed) -> None:
    import torch

    random = np.random.default_rng(seed)
    found = [logits(*shape, 7, scale=scale, seed=seed) + np.float32(shift) for shape in shapes]
    labels = [random.choice([IGNORED, *range(7)], size=shape) for shape in shapes]
    labels[0] = np.concatenate([labels[0], [[0] * labels[0].shape[1], [1] * labels[0].shape[1]]])
    found[0] = np.concatenate([found[0], found[0][:1], found[0][:1]])
    flat = torch.from_numpy(np.concatenate([each.reshape(-1, 7) for each in found])).double()
    expected = torch.nn.functional.cross_entropy(flat, torch.from_numpy(np.concatenate([*map(np.ravel, labels)])))
    value, count = judge(labels, found).score(outputs(found))
    assert np.log(value) == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    assert count == sum(int((each != IGNORED).sum()) for each in labels)


def test_it_is_one_when_sure_the_vocabulary_when_clueless_and_lower_is_better() -> None:
    sure, clueless = np.full((2, 3, 7), -1e4, np.float32), np.zeros((2, 3, 7), np.float32)
    np.put_along_axis(sure, np.where(RIGHT == IGNORED, 5, RIGHT)[..., None], 0, axis=-1)
    both = judge([RIGHT.tolist()], [sure])
    assert (both.score(outputs([sure])), both.score(outputs([clueless]))) == ((1.0, 3), (pytest.approx(7.0), 3))
    gate = Evaluation("d.py:f", "perplexity", max_drop=1.5, floor=3.0)
    assert (limit(gate, 1.0), limit(gate, 2.0)) == (2.5, 3.0)
    assert passes(gate, 2.4, 2.5)
    assert not passes(gate, 2.6, 2.5)


def test_what_is_ignored_or_impossible_costs_nothing_and_what_it_denies_fails() -> None:
    found = logits(2, 3, 7)
    whole = judge([RIGHT], [found]).score(outputs([found]))
    spoilt = found.copy()
    spoilt[RIGHT == IGNORED] = np.nan
    assert judge([RIGHT], [found]).score(outputs([spoilt])) == whole
    barred = found.copy()
    barred[..., 6] = -np.inf
    assert judge([RIGHT], [found]).score(outputs([barred]))[0] < whole[0]
    for value, says in ((np.nan, "nan"), (np.inf, "nan"), (-np.inf, "inf")):
        bad = found.copy()
        bad[0, 0, 1] = value
        with pytest.raises(ModelBuildError, match=f"metric 'perplexity' must be a finite number, got {says}$"):
            judge([RIGHT], [found]).score(outputs([bad]))
    with pytest.raises(ModelBuildError, match=r"must be a finite number, got inf$"):
        judge([RIGHT], [found]).score(outputs([found * np.float32(1e6)]))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, r"needs labels, got none; yield \(inputs, labels\)"),
        (RIGHT[:, :2], r"labels of evaluation batch 0 must be token numbers of shape \(2, 3\), got int64 \(2, 2\)"),
        (RIGHT.astype(float), r"must be token numbers of shape \(2, 3\), got float64 \(2, 3\)"),
        (RIGHT + 5, r"token numbers from 0 to 6, or -100 where none counts, got -95 to 7"),
        (np.where(RIGHT == 0, -1, RIGHT), "got -1 to 2"),
        (np.full((2, 3), IGNORED), "two or more different tokens for metric 'perplexity', got 0"),
        (np.full((2, 3), 4), "two or more different tokens for metric 'perplexity', got 1, so that a model that"),
    ],
)
def test_labels_that_are_no_tokens_fail(labels: Any, says: str) -> None:
    found = logits(2, 3, 7)
    with pytest.raises(ModelBuildError, match=says):
        judge([labels], [found]).score(outputs([found]))


def test_probabilities_and_models_without_logits_fail() -> None:
    import torch

    likely = torch.softmax(torch.from_numpy(logits(2, 3, 7)), dim=-1).numpy()
    with pytest.raises(ModelBuildError, match="output 'logits' must be logits for metric 'perplexity', got probab"):
        judge([RIGHT], [likely]).score(outputs([likely]))
    assert judge([RIGHT], [np.log(likely)]).score(outputs([np.log(likely)]))[1] == 3
    assert logits_output(OUTPUTS) == 2
    with pytest.raises(ModelBuildError, match=r"'outputs' must be tensors of which one has floats and the axes"):
        logits_output(OUTPUTS[:2])


@pytest.mark.slow
def test_the_gate_of_a_build_judges_what_is_deployed(tmp_path: Path) -> None:
    import torch

    for name, text in {"recipe": RECIPE, "factory": FACTORY, "data": DATA}.items():
        (tmp_path / f"{name}.py").write_text(text)
    space: dict[str, Any] = {}
    exec(FACTORY + DATA, space)  # noqa: S102 - what the build runs
    pairs = [(torch.from_numpy(ids["ids"]), torch.from_numpy(right)) for ids, right in space["evaluation"]()]
    model = space["build"]()
    with torch.no_grad():
        found = torch.cat([model(ids).reshape(-1, 64) for ids, _ in pairs]).double()
    expected = torch.nn.functional.cross_entropy(found, torch.cat([right.reshape(-1) for _, right in pairs])).exp()
    built = build_model(tmp_path / "recipe.py", cache=tmp_path / "cache")
    gate = json.loads(built.report.read_text())["gate"]
    assert (gate["metric"], gate["higher_is_better"], gate["samples"]) == ("perplexity", False, 8 * 4 + 8 * 8)
    assert gate["baseline"] == pytest.approx(expected.item(), abs=1e-3)
    assert gate["limit"] == pytest.approx(gate["baseline"] + 0.5)
    assert gate["baseline"] != gate["deployed"] <= gate["limit"]
