"""The files of a deployed model: weights that lie next to the graph."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from tests.constructs.model.conftest import write_recipe

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import build_model
from cdk_inference.model.files import weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.constructs.model.conftest import BuildOnce

    from cdk_inference.model import BuiltModel


def model_with(sizes: list[int]) -> bytes:
    """Return a model that adds weights of these numbers of bytes, each a row of float32, up as sums."""
    nodes, tensors, last = [], [], "x"
    for index, size in enumerate(sizes):
        values = np.full(size // 4, index + 1, np.float32)
        tensors.append(numpy_helper.from_array(values, f"w{index}"))
        nodes.append(onnx.helper.make_node("ReduceSum", [f"w{index}"], [f"s{index}"], keepdims=0))
        nodes.append(onnx.helper.make_node("Add", [last, f"s{index}"], [f"v{index}"]))
        last = f"v{index}"
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", last)]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString(deterministic=True)


def run(model: bytes | str) -> list[np.ndarray]:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(1, np.float32)})


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    wholes=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 9), max_size=5),
    page=st.sampled_from([1, 4]),
)
def test_weights_that_are_parts_of_others_lie_within_them(
    data: st.DataObject, wholes: list[bytes], cuts: list[int], page: int
) -> None:
    parts, rest = [], wholes[0]
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    arranged = data.draw(st.permutations([*wholes, *wholes[:1]])) + [part for part in parts if part]
    with patch.object(weights, "ALIGNMENT", page):
        offsets = weights.lay_out([memoryview(each) for each in arranged])
    file = bytearray(max(at + len(each) for at, each in zip(offsets, arranged, strict=True)))
    for at, each in zip(offsets, arranged, strict=True):
        file[at : at + len(each)] = each
    assert all(file[at : at + len(each)] == each for at, each in zip(offsets, arranged, strict=True))
    assert all(at % page == 0 for at in offsets)


def test_parts_of_a_weight_and_equal_ones_are_stored_once() -> None:
    page = weights.ALIGNMENT
    first, second, last = (bytes([number]) * size for number, size in ((1, page), (2, 2 * page), (3, 77)))
    whole = first + second + last
    arranged = [last, b"x" * 9, whole, second, whole, first, last]
    found = weights.lay_out([memoryview(each) for each in arranged])
    assert found == [4 * page, 0, page, 2 * page, page, page, 4 * page]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 20_000).map(lambda n: 4 * n), min_size=1, max_size=5))
def test_split_and_joined_is_the_same(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder, model = tmp_path_factory.mktemp("model"), model_with(sizes)
    weights.write(folder, model)
    assert weights.join(folder / "model.onnx") == model
    large = [size for size in sizes if size >= weights.LEAST_BYTES]
    assert (folder / "model.weights").exists() == bool(large)
    aside = onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
    places = [{e.key: e.value for e in w.external_data} for w in aside if w.external_data]
    assert [int(place["length"]) for place in places] == large
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    assert {place["location"] for place in places} <= {"model.weights"}
    np.testing.assert_array_equal(run(str(folder / "model.onnx")), run(model))


def test_weights_are_mapped_into_memory(tmp_path: Path) -> None:
    """So that they are read when they are used, and shared with the page cache."""
    weights.write(tmp_path, model_with([4, 400_000]))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # folds nothing away
    session = ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert str(tmp_path / "model.weights") in Path("/proc/self/maps").read_text()
    assert session.run(None, {"x": np.zeros(1, np.float32)})[0] == [200_001]


def test_version_covers_graph_and_weights_in_turn(tmp_path: Path) -> None:
    weights.write(tmp_path, model_with([50_000]))
    files = [(tmp_path / name).read_bytes() for name in ("model.onnx", "model.weights")]
    assert weights.digest(tmp_path) == hashlib.sha256(b"".join(files)).hexdigest()
    assert weights.size(tmp_path) == sum(map(len, files))
    (tmp_path / "model.weights").write_bytes(files[1][:-1] + b"\x01")
    assert weights.digest(tmp_path) != hashlib.sha256(b"".join(files)).hexdigest()


def test_self_contained_file_is_joined_as_it_is(tmp_path: Path) -> None:
    model = model_with([100_000])
    (tmp_path / "other.onnx").write_bytes(model)
    assert weights.join(tmp_path / "other.onnx") == model


def _elsewhere(location: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "model.weights").unlink(), "cannot be read: .*No such file"),
        (lambda f: (f / "model.weights").write_bytes(b"short"), "must hold all weights .*copy both files together"),
        (lambda f: (f / "model.onnx").write_bytes(b"no model"), "cannot be read as an ONNX graph"),
        (_elsewhere("../model.weights"), "must have its weights in a file next to it"),
        (_elsewhere("/etc/passwd"), "must have its weights in a file next to it"),
        (_elsewhere(""), "must have its weights in a file next to it"),
    ],
)
def test_joining_fails_with_the_reason(tmp_path: Path, change: Callable[[Path], None], reason: str) -> None:
    weights.write(tmp_path, model_with([50_000]))
    change(tmp_path)
    with pytest.raises(ModelBuildError, match=reason):
        weights.join(tmp_path / "model.onnx")


def write_wide(folder: Path) -> Path:
    recipe = write_recipe(
        folder,
        factory=("8, 16, 3, stride=2", "8, 256, 3, stride=2"),
        recipe=("max_drop=0.1", 'metric="cosine", max_drop=0.1'),
    )
    text = (recipe.parent / "factory.py").read_text().replace("Linear(16, 5)", "Linear(256, 5)")
    (recipe.parent / "factory.py").write_text(text)
    return recipe


@pytest.fixture(scope="module")
def wide(build_once: BuildOnce) -> tuple[Path, Path, BuiltModel]:
    """Recipe, cache and artifact of a network with weights that are large enough to lie aside."""
    return build_once("wide", write_wide)


@pytest.mark.slow
def test_built_artifact_has_its_weights_beside_it(wide: tuple[Path, Path, BuiltModel]) -> None:
    built = wide[2]
    assert sorted(p.name for p in built.path.iterdir()) == ["manifest.json", "model.onnx", "model.weights"]
    assert weights.digest(built.path).startswith(built.version)
    assert built.manifest.size_bytes == weights.size(built.path)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    outputs = [
        ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"images": images})
        for model in (built.path / "model.onnx", weights.join(built.path / "model.onnx"))
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-4096])])
def test_artifact_with_damaged_weights_is_built_again(
    wide: tuple[Path, Path, BuiltModel], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    recipe, cache, built = wide
    shutil.copytree(cache, tmp_path / "cache")
    damage(tmp_path / "cache" / built.path.relative_to(cache) / "model.weights")
    assert build_model(recipe, cache=tmp_path / "cache").asset_hash == built.asset_hash


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    """Tools that keep versions of data put such links in place of large files."""
    (tmp_path / "stored").write_bytes(b"weights")
    (tmp_path / "net.data").symlink_to("stored")
    (tmp_path / "other").mkdir()
    weights.link(tmp_path / "net.data", tmp_path / "other" / "0.weights")
    assert not (tmp_path / "other" / "0.weights").is_symlink()
    assert (tmp_path / "other" / "0.weights").samefile(tmp_path / "stored")
