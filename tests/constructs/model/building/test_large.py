"""Models whose weights stay in files while they are built: here small ones, for which the limit is lowered."""

from __future__ import annotations

import io
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from tests.constructs.model.files.test_weights import model_with

from cdk_inference.common.store import Store
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    DynamicInt8,
    Evaluation,
    Float32,
    ModelRecipe,
    OnnxFile,
    Provenance,
    TensorSpec,
    TorchModule,
    TorchProgram,
    WeightOnly,
)
from cdk_inference.model.building.evaluation.data import first_batch
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.exported import exported
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import fuse
from cdk_inference.model.building.importers import tensors
from cdk_inference.model.building.passes import Passes
from cdk_inference.model.building.search.trials import Trials
from cdk_inference.model.files import weights
from cdk_inference.model.records.fingerprint import hash_files

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model.recipe.sources import Source

pytestmark = pytest.mark.xdist_group("torch")  # one process imports it

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(600, 64)
        self.up = nn.Linear(64, 192, bias=False)
        self.down = nn.Linear(192, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 80)
        self.register_buffer("answers", torch.tensor([3, 5, 8]))

    def forward(self, tokens):
        states = self.words(tokens)
        states = self.norm(states + self.down(nn.functional.silu(self.up(states)))).mean(1)
        tied = nn.functional.linear(states, self.words.weight)[:, :3]
        return self.head(states)[:, :3] + tied + states @ self.words.weight[self.answers].T

def build():
    return Net()
"""
DATA = """
import numpy as np

def tokens():
    random = np.random.default_rng(0)
    for _ in range(3):
        yield {"tokens": random.integers(0, 600, (4, 7))}
"""
SMALLEST = 16 * 1024  # so that the tiny network counts as large, in every precision
MIDDLING = 150_000  # so that it counts as large in float32 alone


def recipe_of(source: Source) -> ModelRecipe:
    return ModelRecipe(
        name="net",
        source=source,
        inputs=(TensorSpec("tokens", "int64", ("batch", 7)),),
        outputs=(TensorSpec("scores", "float32", ("batch", 3)),),
        evaluation=Evaluation(data="data.py:tokens", metric="cosine", max_drop=0.2),
        precision=WeightOnly(bits=4, block_size=32),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network as its module with weights, as a program, and as a graph with its weights in another file."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("net")
    (folder / "factory.py").write_text(FACTORY)
    (folder / "data.py").write_text(DATA)
    names: dict[str, object] = {}
    exec(FACTORY, names)  # noqa: S102 - the text above
    torch.manual_seed(1)
    net = names["build"]().eval()  # type: ignore[operator]
    save_file(net.state_dict(), folder / "net.safetensors")
    example = (torch.zeros((2, 7), dtype=torch.int64),)
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, example, dynamic_shapes=sizes)
    torch.export.save(program, folder / "net.pt2")
    graph = torch.onnx.export(
        net, example, dynamo=True, dynamic_shapes=sizes, input_names=["tokens"], output_names=["scores"], verbose=False
    )
    assert graph is not None
    graph.save(str(folder / "net.onnx"), external_data=True)
    return folder


SOURCES = {
    "module": TorchModule("factory.py:build", weights="net.safetensors"),
    "program": TorchProgram("net.pt2"),
    "graph": OnnxFile("net.onnx", external_data=("net.onnx.data",)),
}


def trials_of(source: Source, folder: Path, cache: Path) -> Trials:
    recipe = recipe_of(source)
    example = first_batch(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
    passes = Passes(Store(cache), "test", io.StringIO())
    request = {"files": hash_files(folder, recipe), "packages": []}
    return Trials(recipe, folder, exported(recipe, request, folder, cache, example, passes)[0], passes)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".onnx", ".weights")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lowered"), [("module", SMALLEST), ("program", MIDDLING), ("graph", SMALLEST)])
def test_large_models_become_the_same_artifact_as_small_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lowered: int
) -> None:
    """In every precision, the same files to ship, and the same answers."""
    found = {}
    for limit in (weights.LARGE, lowered):
        monkeypatch.setattr(weights, "LARGE", limit)
        trials = trials_of(SOURCES[name], folder, tmp_path / str(limit))
        assert weights.is_large(trials.float32) == (limit == lowered)
        tried = [trials.run(p) for p in (Float32(), WeightOnly(4, 32), WeightOnly(8, 64), DynamicInt8())]
        assert [trial.failure for trial in tried] == [""] * len(tried)
        shipped = [trial.shipped for trial in tried if trial.shipped]
        assert weights.is_large(weights.entry(shipped[1])) == (limit == SMALLEST)
        found[limit] = [content(made) for made in shipped], [trial.outputs for trial in tried]
        trials.check(shipped[1])
    (small, answers), (large, others) = found.values()
    assert [sorted(files) for files in small] == [["model.onnx", "model.weights"]] * 4
    assert small == large
    np.testing.assert_array_equal(np.array(answers), np.array(others))


@pytest.mark.slow
def test_no_weight_of_a_large_model_is_held_in_its_graph(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGE", SMALLEST)
    written: list[int] = []
    serialize = onnx.ModelProto.SerializeToString
    monkeypatch.setattr(
        onnx.ModelProto,
        "SerializeToString",
        lambda model, **options: written.append(model.ByteSize()) or serialize(model, **options),
    )
    trials = trials_of(SOURCES["module"], folder, tmp_path)
    assert trials.run(WeightOnly(4, 32)).failure == ""
    assert max(written) < weights.size(trials.float32.parent) / 4
    assert not list(tmp_path.glob("*/made")) + list(tmp_path.glob("*/tmp*"))  # working files are gone


@pytest.mark.slow
def test_large_model_fails_where_all_weights_are_needed_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGE", SMALLEST)
    monkeypatch.setattr(weights, "MESSAGE", 2 * SMALLEST)
    trials = trials_of(SOURCES["graph"], folder, tmp_path)
    assert trials.run(WeightOnly(4, 32)).failure == ""
    assert trials.run(DynamicInt8()).failure.startswith(
        "a graph that becomes dynamic int8 must be below 0.0 GB with its weights, got 0.0 GB; choose WeightOnly(bits=8)"
    )
    assert [*trials.conversions.softened(WeightOnly(4, 32), None)] == []


def test_weights_fail_that_are_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("3000000000\n")
    monkeypatch.setattr(tensors, "_CONTAINER", limit)
    tensors.check_size(2_900_000_000, "weights")
    with pytest.raises(ModelBuildError, match=r"^weights must fit into the 3\.0 GB of .*, got 3\.1 GB; build on"):
        tensors.check_size(3_100_000_000, "weights")
    limit.write_text("max\n")
    tensors.check_size(3_100_000_000, "weights")


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 20_000).map(lambda n: 4 * n), min_size=1, max_size=5), spooled=st.booleans())
def test_graph_is_saved_as_its_bytes_would_be(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], spooled: bool
) -> None:
    folder, model = tmp_path_factory.mktemp("model"), onnx.load_from_string(model_with(sizes))
    expected = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights.write(folder, model.SerializeToString(deterministic=True))
    with aside.spooling(folder / "spool") if spooled else nullcontext():
        for tensor, values in zip(model.graph.initializer, expected, strict=True):
            tensor.CopyFrom(aside.stored(values, tensor.name))
    first = aside.save(model, folder / "first")
    assert content(first.parent) == content(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "LARGE", 0)
        again = aside.load(first)
    large = [size for size in sizes if size >= weights.LEAST_BYTES]
    assert aside.is_aside(again) == bool(large)
    shutil.rmtree(folder / "spool", ignore_errors=True)
    second = aside.save(again, folder / "second")
    assert content(second.parent) == content(folder)
    if large:
        assert (second.parent / weights.WEIGHTS).samefile(first.parent / weights.WEIGHTS)  # a link
    for tensor, values in zip(again.graph.initializer, expected, strict=True):
        np.testing.assert_array_equal(aside.values(tensor), values)
    assert aside.included(again, "it", "do").SerializeToString() == model_with(sizes)
    assert weights.identity(first) == weights.identity(second) == weights.digest(folder)


def test_weights_of_branches_stay_in_their_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of models have none of them, but onnxruntime puts them aside as it fuses operators."""
    monkeypatch.setattr(weights, "LARGE", SMALLEST)
    taken = {name: np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) for name in ("w", "yes", "no")}

    def tensor(name: str) -> onnx.TensorProto:
        return numpy_helper.from_array(taken[name], name)

    def branch(name: str) -> onnx.GraphProto:
        node = onnx.helper.make_node("MatMul", ["m", name], [f"{name}_m"])
        end = onnx.helper.make_tensor_value_info(f"{name}_m", onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([node], name, [], [end], [tensor(name)])

    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["m"]),
        onnx.helper.make_node("If", ["asked"], ["y"], then_branch=branch("yes"), else_branch=branch("no")),
    ]
    kinds = {"x": (onnx.TensorProto.FLOAT, ["b", 64]), "asked": (onnx.TensorProto.BOOL, [])}
    inputs = [onnx.helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    ends = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", 64])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, ends, [tensor("w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    fused = fuse(aside.load(aside.save(model, tmp_path / "original")), tmp_path)
    assert aside.is_aside(fused)
    session = open_session(aside.save(fused, tmp_path / "saved"))
    x = np.ones((2, 64), np.float32)
    for asked, name in ((True, "yes"), (False, "no")):
        (found,) = session.run(None, {"x": x, "asked": np.array(asked)})
        np.testing.assert_allclose(found, x @ taken["w"] @ taken[name], rtol=1e-4, atol=1e-3)


def test_saving_fails_for_weights_that_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGE", 0)
    file = aside.save(onnx.load_from_string(model_with([50_000, 20_000])), tmp_path)
    graph = aside.load(file)
    with (tmp_path / weights.WEIGHTS).open("r+b") as stream:
        stream.truncate(60_000)
    with pytest.raises(ModelBuildError, match=r"model\.weights must hold all weights of its graph, got .* too short"):
        aside.save(graph, tmp_path / "other")
