"""Attention to a cache becomes one operator, and the decoder writes what it wrote before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from tests.constructs.model.graphs import FLOAT, Graph, operators, run

from cdk_inference.model import Graph as Declared
from cdk_inference.model import OnnxFile, TensorSpec
from cdk_inference.model.building.evaluation.driven import Driven
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.attention import fuse_attention
from cdk_inference.model.building.search.optimize import can_fuse_attention, optimize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAYERS, SIZE, HALF, VOCABULARY, STEPS = 2, 8, 4, 40, 6
LOWEST = float(np.finfo(np.float32).min)
CACHES = [f"past.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]


class Decoder(Graph):
    """A decoder as PyTorch exports those of transformers: grouped heads, rotated halves, norms of mean squares.

    Parameters
    ----------
    heads, groups
        Heads of queries, and of keys.
    rotary
        Whether heads are rotated by the places of their tokens.
    hidden
        The number that the mask adds for a token that is not seen.
    causal
        Whether no token sees later ones.
    """

    def __init__(
        self, heads: int = 4, groups: int = 2, *, rotary: bool = True, hidden: float = LOWEST, causal: bool = True
    ) -> None:
        super().__init__(seed=5)
        self.causal = causal
        self.heads, self.groups, self.rotary = heads, groups, rotary
        self.width = heads * SIZE
        ids, mask, places = (
            self.input(name, ("batch", axis), TensorProto.INT64)
            for name, axis in (("input_ids", "steps"), ("attention_mask", "read"), ("position_ids", "steps"))
        )
        for name in CACHES:
            self.input(name, ("batch", groups, "past", SIZE))
        self.batch, self.steps = (self.add("Shape", ids, start=n, end=n + 1) for n in (0, 1))
        self.read = self.add("Shape", mask, start=1, end=2)
        self.mask = self._mask(mask, hidden)
        angles = self.add("Cast", self.add("Unsqueeze", places, self.weight([2])), to=FLOAT)
        angles = self.add("Mul", angles, self.weight(np.float32(10.0 ** -np.arange(HALF))))
        both = self.add("Concat", angles, angles, axis=-1)
        self.turns = [self.add("Unsqueeze", self.add(kind, both), self.weight([1])) for kind in ("Cos", "Sin")]
        x = self.add("Gather", self.normal(VOCABULARY, self.width), ids)
        for layer in range(LAYERS):
            x = self._layer(x, layer)
        logits = self.add(
            "MatMul", self._norm(self.add("Gather", x, self.weight(-1), axis=1)), self._matrix(VOCABULARY)
        )
        self.ranked = self.add("LogSoftmax", logits, axis=-1)

    def decoder(self, places: int = 3) -> onnx.ModelProto:
        """Return the graph, which ranks tokens."""
        made = self.model()
        best = ["next_scores", "next_tokens"]
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([places]), "places"))
        made.graph.node.append(onnx.helper.make_node("TopK", [self.ranked, "places"], best, name="rank"))
        for name, kind in zip(best, (FLOAT, TensorProto.INT64), strict=True):
            made.graph.output.append(make_tensor_value_info(name, kind, ["batch", places]))
        for name in CACHES:
            made.graph.output.append(
                make_tensor_value_info(name.replace("past", "present"), FLOAT, ["batch", self.groups, "read", SIZE])
            )
        for number, node in enumerate(made.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        return made

    def _mask(self, mask: str, hidden: float) -> str:
        last = self.add("Sub", self.add("Squeeze", self.read), self.add("Squeeze", self.steps))
        own = self.add("Range", last, self.add("Squeeze", self.read), self.weight(1))
        every = self.add("Range", self.weight(0), self.add("Squeeze", self.read), self.weight(1))
        seen = self.add("LessOrEqual", every, self.add("Unsqueeze", own, self.weight([1])))
        real = self.add("Unsqueeze", self.add("Cast", mask, to=TensorProto.BOOL), self.weight([1, 2]))
        both = self.add("And" if self.causal else "Or", seen, real)
        return self.add("Where", both, self.weight(np.float32(0)), self.weight(np.float32(hidden)))

    def _matrix(self, out: int) -> str:
        return self.normal(self.width, out, scale=0.3)

    def _norm(self, x: str) -> str:
        mean = self.add("ReduceMean", self.add("Pow", x, self.weight(2.0)), self.weight([-1]), keepdims=1)
        root = self.add("Sqrt", self.add("Add", mean, self.weight(np.float32(1e-6))))
        normed = self.add("Mul", x, self.add("Reciprocal", root))
        return self.add("Mul", self.normal(self.width, scale=0.3, mean=1.0), normed)

    def _apart(self, x: str, heads: int) -> str:
        shape = self.add("Concat", self.batch, self.steps, self.weight([-1]), self.weight([SIZE]), axis=0)
        product = self.add("MatMul", x, self._matrix(heads * SIZE))
        return self.add("Transpose", self.add("Reshape", product, shape), perm=[0, 2, 1, 3])

    def _rotated(self, x: str) -> str:
        if not self.rotary:
            return x
        ends = [[0], [HALF], [np.iinfo(np.int64).max]]
        first, second = (
            self.add("Slice", x, *(self.weight(each) for each in (*ends[n : n + 2], [3], [1]))) for n in (0, 1)
        )
        crossed = self.add("Concat", self.add("Neg", second), first, axis=-1)
        return self.add("Add", self.add("Mul", x, self.turns[0]), self.add("Mul", crossed, self.turns[1]))

    def _repeated(self, x: str) -> str:
        if self.heads == self.groups:
            return x
        wide = [self.weight([n]) for n in (self.groups, self.heads // self.groups, SIZE, self.heads)]
        shape = self.add("Concat", self.batch, *wide[:2], self.read, wide[2], axis=0)
        x = self.add("Expand", self.add("Unsqueeze", x, self.weight([2])), shape)
        return self.add("Reshape", x, self.add("Concat", self.batch, wide[3], self.read, wide[2], axis=0))

    def _layer(self, x: str, layer: int) -> str:
        normed = self._norm(x)
        query, key = (self._rotated(self._apart(normed, heads)) for heads in (self.heads, self.groups))
        value = self._apart(normed, self.groups)
        for kind, new in (("key", key), ("value", value)):
            self.add("Concat", f"past.{layer}.{kind}", new, axis=-2)
            self.nodes[-1].output[0] = f"present.{layer}.{kind}"
        keys, values = (self._repeated(f"present.{layer}.{kind}") for kind in ("key", "value"))
        root = self.weight(np.float32(SIZE**-0.25))
        turned = self.add("Mul", self.add("Transpose", keys, perm=[0, 1, 3, 2]), root)
        likeness = self.add("MatMul", self.add("Mul", query, root), turned)
        shares = self.add("Softmax", self.add("Add", likeness, self.mask), axis=-1)
        shares = self.add("Where", self.add("IsNaN", shares), self.weight(np.float32(0)), shares)
        heard = self.add("Transpose", self.add("MatMul", shares, values), perm=[0, 2, 1, 3])
        shape = self.add("Concat", self.batch, self.steps, self.weight([-1]), axis=0)
        x = self.add("Add", x, self.add("MatMul", self.add("Reshape", heard, shape), self._matrix(self.width)))
        return self.add("Add", x, self.add("MatMul", self._norm(x), self._matrix(self.width)))


def fused(model: onnx.ModelProto, count: int = LAYERS) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    assert fuse_attention(made) == count
    return made


def writer(model: onnx.ModelProto, width: int) -> Driven:
    """Return a driver of the graph: greedy, or a beam."""
    description = {
        "kind": "search",
        "graphs": [{"name": "decoder", "reads": {}}],
        "states": {name.replace("past", "present"): name for name in CACHES},
        "tokens": "input_ids",
        "position": "position_ids",
        "prompt": "input_ids",
        "mask": "attention_mask",
        "start": [],
        "end": 0,
        "max_steps": STEPS,
        "min_steps": 0,
        "width": width,
        "length_penalty": 1.0,
        "whole_prefix": False,
        "outputs": ["tokens", "lengths", "scores"],
    }
    return Driven.of_sessions(description, {"decoder": open_session(model.SerializeToString())})


def call(batch: int, past: int, steps: int, *, seed: int = 0, groups: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "input_ids": random.integers(0, VOCABULARY, (batch, steps)),
        "attention_mask": np.ones((batch, past + steps), np.int64),
        "position_ids": np.repeat(np.arange(past, past + steps)[None], batch, 0),
        **{name: random.normal(size=(batch, groups, past, SIZE)).astype(np.float32) for name in CACHES},
    }


@pytest.fixture(scope="module")
def writers() -> dict[tuple[int, bool], Driven]:
    before = Decoder().decoder()
    return {
        (width, new): writer(model, width)
        for width in (1, 3)
        for new, model in ((False, before), (True, fused(before)))
    }


@given(
    st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=4), st.booleans()
)
def test_prompts_of_any_length_are_answered_as_before(
    writers: dict[tuple[int, bool], Driven], prompts: Sequence[Sequence[int]], left: bool
) -> None:
    longest = max(map(len, prompts))
    fill = [[0] * (longest - len(prompt)) for prompt in prompts]
    rows = [[*gap, *prompt] if left else [*prompt, *gap] for gap, prompt in zip(fill, prompts, strict=True)]
    ids = np.array(rows, np.int64)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    for width in (1, 3):
        (tokens, lengths, scores), theirs = (writers[width, new].run(None, batch) for new in (True, False))
        np.testing.assert_array_equal(tokens, theirs[0])
        np.testing.assert_array_equal(lengths, theirs[1])
        np.testing.assert_allclose(scores, theirs[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "decoder",
    [Decoder(), Decoder(6, 2, rotary=False), Decoder(2, 2), Decoder(hidden=-np.inf), Decoder(hidden=-1e4)],
    ids=["grouped", "without rotation", "a key for each query", "infinitely far", "near"],
)
def test_a_layer_is_a_handful_of_operators_that_give_the_same(decoder: Decoder) -> None:
    before = decoder.decoder()
    after = fused(before)
    kinds = operators(after)
    assert kinds.count("GroupQueryAttention") == LAYERS
    assert kinds.count("RotaryEmbedding") == 2 * LAYERS * decoder.rotary
    assert kinds.count("SimplifiedLayerNormalization") == 2 * LAYERS + 1
    assert not {"Softmax", "Pow", "Neg"} & {*kinds}
    for batch, past, steps in ((2, 0, 5), (3, 7, 1), (1, 4, 3)):
        asked = call(batch, past, steps, groups=decoder.groups)
        for ours, theirs in zip(run(after, asked), run(before, asked), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_place_that_sees_nothing_never_becomes_a_number_that_is_none() -> None:
    after = fused(Decoder(hidden=-np.inf).decoder())
    asked = call(2, 0, 4)
    asked["attention_mask"][1, :2] = 0
    assert all(np.isfinite(output).all() for output in run(after, asked))


def _softmax_over_heads(node: onnx.NodeProto) -> None:
    if node.op_type == "Softmax":
        node.attribute[0].i = 1


def _cache_at_the_end(node: onnx.NodeProto) -> None:
    if node.op_type == "Concat" and node.input[0].startswith("past"):
        node.input[:] = [*reversed(node.input)]


def _rotated_value(node: onnx.NodeProto) -> None:
    if node.op_type == "Neg":
        node.op_type = "Abs"


@pytest.mark.parametrize("change", [_softmax_over_heads, _cache_at_the_end, _rotated_value])
def test_other_attention_stays_byte_for_byte(change: Any) -> None:
    model = Decoder().decoder()
    for node in model.graph.node:
        change(node)
    before = model.SerializeToString(deterministic=True)
    assert fuse_attention(model) == 0
    assert model.SerializeToString(deterministic=True) == before


DECLARED = Declared(
    OnnxFile("decoder.onnx"),
    inputs=(TensorSpec("input_ids", "int64", ("batch", "steps")),),
    outputs=tuple(
        TensorSpec(name.replace("past", "present"), "float32", ("batch", 2, "read", SIZE)) for name in CACHES
    ),
)


def test_it_is_fused_where_a_float_graph_computes_the_same(tmp_path: Path) -> None:
    calls = [call(1, 0, 5), call(1, 5, 1)]
    assert can_fuse_attention(Decoder().decoder(), DECLARED, calls, tmp_path)


def test_large_weights_stay_in_their_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LEAST_BYTES", 256)
    before = Decoder()
    unused = before.normal(64, 64)
    before.add("Identity", unused)  # the fused graph drops it, and so has other files
    file = aside.save(before.decoder(), tmp_path / "float")
    content = file.with_suffix(".weights").read_bytes()
    graph = aside.parsed(file)
    assert aside.is_aside(graph)
    (work := tmp_path / "work").mkdir()
    assert can_fuse_attention(graph, DECLARED, [call(1, 0, 5)], work)
    assert optimize(file, "weight_only", DECLARED, call(1, 5, 1), work, attends=True) != file
    assert file.with_suffix(".weights").read_bytes() == content


def test_it_is_not_fused_where_tokens_see_later_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not can_fuse_attention(Decoder(causal=False).decoder(), DECLARED, [call(1, 0, 5)], tmp_path)
    assert "the model ships without fused attention: the exported graph must compute" in capsys.readouterr().err


def test_it_is_not_fused_where_no_prompt_shows_what_its_tokens_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, short = Decoder(causal=False).decoder(), [call(1, 0, 1), call(1, 1, 1)]
    assert can_fuse_attention(graph, DECLARED, short, tmp_path)  # of a driver that gives one token at a time
    assert not can_fuse_attention(graph, DECLARED, short, tmp_path, prompts="input_ids")
    assert "its sample must have a prompt of several tokens" in capsys.readouterr().err
    assert can_fuse_attention(Decoder().decoder(), DECLARED, [call(1, 0, 2), *short], tmp_path, prompts="input_ids")


def test_it_is_not_fused_where_the_operator_fails_on_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a prompt after a cache that holds something already."""
    assert not can_fuse_attention(Decoder().decoder(), DECLARED, [call(1, 3, 2)], tmp_path)
    assert "the model ships without fused attention: onnxruntime cannot run the graph" in capsys.readouterr().err
