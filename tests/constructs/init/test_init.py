"""A new project is complete: its recipe loads, its data fit, its code is clean, and nothing of the user's is lost."""

from __future__ import annotations

import ast
import contextlib
import http.server
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import threading
import wave
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests.constructs.model.graphs import Graph
from typer.testing import CliRunner

from cdk_inference.errors import InferenceError
from cdk_inference.init import cli
from cdk_inference.init.errors import InitError
from cdk_inference.init.model import InspectedModel, Pixels
from cdk_inference.init.names import project_name, stack_name
from cdk_inference.init.project import project_around
from cdk_inference.init.rendering import literal, render
from cdk_inference.init.sources.inspect import inspect
from cdk_inference.init.storing import choose_storing
from cdk_inference.model import TensorSpec, load_recipe
from cdk_inference.model.building.importers.tensors import check_batch
from cdk_inference.model.records.fingerprint import hash_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "examples" / "shapes"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def graph(inputs: dict[str, tuple[Any, ...]], outputs: dict[str, tuple[Any, ...]], **metadata: str) -> onnx.ModelProto:
    """A graph that declares tensors; the first is of floats unless its name says otherwise."""
    kinds = {"pixels": TensorProto.UINT8, "label": TensorProto.STRING}
    kinds |= dict.fromkeys(("input_ids", "attention_mask", "count"), TensorProto.INT64)
    values = [
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name, shape in each.items()]
        for each in (inputs, outputs)
    ]
    nodes = [
        helper.make_node("Softmax" if "prob" in name else "Identity", [next(iter(inputs))], [name]) for name in outputs
    ]
    model = helper.make_model(helper.make_graph(nodes, "graph", *values), opset_imports=[helper.make_opsetid("", 17)])
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


TOKENS = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}
TOKENIZER = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "the": 1, "train": 2}, "unk_token": "[UNK]"},
    "pre_tokenizer": {"type": "Whitespace"},
    "added_tokens": [{"id": 0, "content": "[UNK]", "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True}],
}  # fmt: skip

CASES: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "pixels": (
        graph({"pixels": ("n", 64, 64, 3)}, {"logits": ("n", 5)}),
        "Preprocess.image(size=64)",
        'Postprocess.classification(labels="labels.txt")',
    ),
    "pictures": (
        graph({"images": (1, 3, "h", "w")}, {"prob": (1, 4)}, names="{0: 'cat', 1: 'dog', 2: 'a \"b\"', 3: 'x'}"),
        'sources=["pixels.py"]',
        'Postprocess.classification(labels="labels.txt", activation="none")',
    ),
    "grey": (
        graph({"images": ("n", 28, 40, 1)}, {"embedding": ("n", 16)}),
        'sources=["pixels.py"]',
        "Postprocess.embedding()",
    ),
    "masks": (
        graph({"x": ("n", 3, 32, 48)}, {"y": ("n", 7, "height/2", "width/2")}),
        'keep=["picture"]',
        'Postprocess.segmentation(labels="labels.txt")',
    ),
    "boxes": (
        graph({"x": (1, 3, 64, 64)}, {"y": (1, 6, 1344)}, names="{0: 'cat', 1: 'dog'}"),
        'keep=["picture"]',
        'Postprocess.detection(labels="labels.txt")',
    ),
    "large": (
        graph({"x": ("n", 3, 32, 32)}, {"mask": ("n", 7, "height/2", "width/2"), "other": ("n", 9, 99)}),
        'sources=["pixels.py"]',
        'Postprocess.function("postprocess.py:postprocess")',
    ),
    "texts": (
        graph(TOKENS, {"logits": ("batch", 2), "hidden": ("batch", "sequence", 8)}),
        'Preprocess.text(tokenizer="tokenizer.json")',
        'Postprocess.classification(labels="labels.txt", output="logits")',
    ),
    "features": (
        graph({"x": (None, 3)}, {"label": (None,), "value": (None, 1)}, features='["a", "b\\"c", "d"]'),
        "Preprocess.json(fields=FIELDS)",
        "",
    ),
    "sound": (graph({"wave": ("n", 1, "samples")}, {"scores": ("n", 3)}), 'sources=["sound.py"]', "classification"),
    "recordings": (
        graph({"wave": ("n", "samples")}, {"scores": ("n", 3)}),
        "preprocess=Preprocess.audio(sample_rate=16_000),",
        "classification",
    ),
    "snippets": (graph({"wave": ("n", 4000)}, {"scores": ("n", 3)}), "pad_to_multiple_of=0.25,", "classification"),
    "array": (graph({"series": ("n", 20, 6)}, {"forecast": ("n", 4)}), "Preprocess.tensor()", ""),
    "columns": (
        graph(
            {"amount": (None, 1), "label": (None, 1)},
            {"probabilities": (None, 2)},
            probabilities="true",
            missing='["amount", "label"]',
        ),
        'Column.number("amount", missing=math.nan),\n            Column.text("label"),',
        'activation="none"',
    ),
    "record": (graph({"x": ("n", 4), "count": ("n", 2)}, {'odd "name"': ("n", 4)}), 'suffixes=[".json"]', ""),
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a separate process, as users do."""
    command = [sys.executable, "-m", "cdk_inference", "init", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project for each case, and for models of transformers and timm."""
    root = tmp_path_factory.mktemp("projects")
    models = tmp_path_factory.mktemp("models")
    (models / "texts").mkdir()
    found = {}
    for name, (model, _, _) in CASES.items():
        file = models / name / "model.onnx"
        file.parent.mkdir(exist_ok=True)
        onnx.save(model, file)
        if name == "texts":
            (file.parent / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        found[name] = root / name
        project_around(name, inspect(str(file))).write(found[name], force=False)
    for name, configuration in HUB_MODELS.items():
        folder = models / f"hub-{name}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(configuration))
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        found[name] = root / name
        project_around(name, inspect(f"hf:{folder}")).write(found[name], force=False)
    found["timm"] = root / "timm"
    project_around("timm", TIMM).write(found["timm"], force=False)
    return found


LABELS = {"id2label": {"0": "bad", "1": "good", "2": "so\nso"}}
HUB_MODELS: dict[str, dict[str, Any]] = {
    "reviews": {"architectures": ["BertForSequenceClassification"], "vocab_size": 9, "type_vocab_size": 2, **LABELS},
    "vectors": {"architectures": ["RobertaModel"], "vocab_size": 9, "hidden_size": 12, "max_position_embeddings": 130},
    "tags": {"architectures": ["DistilBertForTokenClassification"], "vocab_size": 9, **LABELS},
    "photos": {"architectures": ["ViTForImageClassification"], "image_size": 48, **LABELS},
}
TIMM = InspectedModel(
    source='TorchModule(factory="factory.py:build")',
    imports=("TorchModule",),
    inputs=(TensorSpec("pictures", "uint8", ("batch", 32, 32, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    origin="timm",
    templates={"factory.py": "factory_timm.py.j2"},
    values={"architecture": "resnet18", "pixels": Pixels()},
    packages=("timm",),
)


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Forget the modules of a project: the next has others of the same names."""
    yield
    for module in ("fields", "pixels", "sound"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("name", CASES)
def test_stages_are_chosen_by_the_tensors(name: str, projects: dict[str, Path]) -> None:
    _, preprocess, postprocess = CASES[name]
    app = (projects[name] / "app.py").read_text()
    assert preprocess in app
    assert postprocess in app
    assert bool(postprocess) == ("postprocess=" in app)


def test_names_of_classes_and_features_are_those_of_the_file(projects: dict[str, Path]) -> None:
    assert (projects["pictures"] / "labels.txt").read_text() == 'cat\ndog\na "b"\nx\n'
    assert (projects["reviews"] / "labels.txt").read_text() == "bad\ngood\nso so\n"
    assert runpy.run_path(str(projects["features"] / "fields.py"))["FIELDS"] == ["a", 'b"c', "d"]


def test_outputs_of_converted_estimators_are_those_that_the_build_takes(tmp_path: Path) -> None:
    numbers = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    kinds = onnx.TypeProto.Map(key_type=TensorProto.STRING)
    kinds.value_type.tensor_type.elem_type = TensorProto.FLOAT
    maps = onnx.ValueInfoProto(name="p")
    maps.type.sequence_type.elem_type.map_type.CopyFrom(kinds)
    one = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    nearest = helper.make_tensor_value_info("nearest", TensorProto.INT64, ["N"])
    distances = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])

    def inspected(nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto]) -> InspectedModel:
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
        graph = helper.make_graph(nodes, "graph", [numbers], outputs)
        onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
        return inspect(str(tmp_path / "model.onnx"))

    node = partial(helper.make_node, domain="ai.onnx.ml")
    map_of = [
        node("Normalizer", ["x"], ["z"], norm="L1"),
        node("ZipMap", ["z"], ["p"], classlabels_strings=["a", "b", "c"]),
    ]
    mapped = inspected(map_of, [maps])
    assert mapped.outputs == (TensorSpec("p", "float32", ("batch", 3)),)
    assert (mapped.labels, mapped.probabilities) == (("a", "b", "c"), True)
    assert choose_storing(mapped).postprocess == 'Postprocess.classification(labels="labels.txt", activation="none")'
    map_of[1] = node("ZipMap", ["z"], ["p"], classlabels_int64s=[3, 5, 7])
    assert inspected(map_of, [maps]).labels == ("class 3", "class 5", "class 7")
    trees = inspected([node("TreeEnsembleRegressor", ["x"], ["y"], n_targets=1)], [one])  # of CatBoost
    assert trees.outputs == (TensorSpec("y", "float32", ("batch", 1)),)
    means = [
        helper.make_node("ArgMin", ["x"], ["nearest"], axis=1, keepdims=0),
        helper.make_node("Sqrt", ["x"], ["scores"]),
    ]
    assert not choose_storing(inspected(means, [nearest, distances])).postprocess  # the highest is the farthest


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("name", [*CASES, *HUB_MODELS])
def test_the_recipe_loads_and_the_data_fit_it(
    name: str, projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = load_recipe(projects[name] / "recipe.py")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    data = runpy.run_path("data.py", run_name="__main__")
    (sample,) = folder.glob("sample.*")
    assert sample.stat().st_size
    assert {"data.py", sample.name} & hash_files(folder, recipe).keys() == {"data.py"}  # its lock goes on to fit
    for function in ("calibration", "evaluation"):
        for batch in data[function]():
            check_batch(batch, recipe.inputs, function)


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("name", ["pictures", "grey", "masks", "sound", "record"])
def test_the_stage_of_the_project_reads_the_sample_and_rejects_another_file(
    name: str, projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference_runtime import RejectItem

    folder = projects[name]
    recipe, _ = load_recipe(folder / "recipe.py")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    runpy.run_path("data.py", run_name="__main__")
    (sample,) = folder.glob("sample.*")
    preprocess = runpy.run_path("preprocess.py")["preprocess"]
    made = preprocess(sample.read_bytes(), None)
    inputs = made if isinstance(made, dict) else {recipe.inputs[0].name: made}
    if picture := inputs.pop("picture", None):
        assert picture == {"width": 48, "height": 32, "input": [48, 32], "region": [0.0, 0.0, 48.0, 32.0]}
    check_batch({key: value[None] for key, value in inputs.items()}, recipe.inputs, "sample")
    with pytest.raises(RejectItem):
        preprocess(b"no such thing", None)


@pytest.mark.usefixtures("own_modules")
def test_a_recording_of_any_rate_is_read(projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(projects["sound"]))
    preprocess = runpy.run_path(str(projects["sound"] / "preprocess.py"))["preprocess"]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 1, 8_000, 0, "NONE", ""))
        file.writeframes(bytes([192]) * 2 * 4_000)
    made = preprocess(stream.getvalue(), None)
    assert made.shape == (1, 8_000)
    np.testing.assert_allclose(made[0, 2_000:6_000], 0.5, atol=0.01)


def test_a_picture_of_any_size_is_read(projects: dict[str, Path]) -> None:
    module = runpy.run_path(str(projects["masks"] / "pixels.py"))
    random = np.random.default_rng(0)
    for width, height in [(1, 1), (1, 900), (900, 1), *random.integers(1, 700, (200, 2)).tolist()]:
        picture = Image.new("L", (width, height), 255)
        assert (module["to_tensor"](picture) == 1).all()
        left, top, right, bottom = module["seen"](picture)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_what_is_written_is_clean_code(projects: dict[str, Path]) -> None:
    root = projects["pixels"].parent
    for command in (["check"], ["format", "--diff"]):
        done = subprocess.run(["ruff", *command, root], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    assert len(list(root.rglob("*.py"))) > 4 * len(projects)


def test_the_help_names_all_command_lines() -> None:
    packages = {path.parent.name for path in Path(cli.__file__).parents[1].glob("*/__main__.py")}
    assert packages | {"release", "bundling.sbom"} == cli.OTHERS.keys()
    said = CliRunner().invoke(cli.app, ["--help"]).output
    assert [name for name in cli.OTHERS if f"python -m cdk_inference.{name}: " not in said] == []


def test_without_a_model_it_is_the_example_of_the_tutorial(tmp_path: Path) -> None:
    done = run(tmp_path, "shapes")
    assert done.returncode == 0, done.stderr
    assert "put triangle.png --wait" in done.stdout
    for path in SHAPES.iterdir():
        if path.is_file():
            assert (tmp_path / "shapes" / path.name).read_bytes() == path.read_bytes(), path.name


def test_weights_outside_of_the_graph_come_along_and_missing_ones_fail(tmp_path: Path) -> None:
    g = Graph(opset=17)
    g.model(logits=g.linear(g.input("x", ("batch", 64)), 64, 8))
    model = g.model(y="x")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4096, np.float32), "w"))
    onnx.save_model(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data")
    del model.graph.output[0]
    project_around("net", inspect(str(tmp_path / "net.onnx"))).write(tmp_path / "net", force=False)
    assert (tmp_path / "net" / "net.data").read_bytes() == (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").unlink()
    with pytest.raises(InitError, match=r"weights next to it, got no file 'net\.data'"):
        inspect(str(tmp_path / "net.onnx"))


def test_existing_files_are_kept_and_force_replaces_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.py").write_text("mine")
    (folder / "notes.txt").write_text("mine too")

    def init(*options: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cdk_inference", "init", str(folder), *options])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return int(ended.value.code or 0)

    assert init() == 1
    assert "must not have files that init writes, got recipe.py in" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "recipe.py"]
    assert init("--force") == 0
    assert "ModelRecipe" in (folder / "recipe.py").read_text()
    assert (folder / "notes.txt").read_text() == "mine too"
    assert init("--name", "9 lives") == 1
    assert "name must be lower-case letters" in capsys.readouterr().err


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_written_whole_is_not_begun(tmp_path: Path, force: bool) -> None:
    whole = project_around("x", TIMM)
    folders = {name: tmp_path / name for name in ("file", "link", "folder", "surrogate", "lost")}
    for folder in folders.values():
        folder.mkdir()
    (folders["file"] / "tests").write_text("mine")
    (folders["link"] / "tests").symlink_to(tmp_path)
    (folders["folder"] / "recipe.py").mkdir()
    with pytest.raises(InitError, match="tests must be a folder, got a file in"):
        whole.write(folders["file"], force=force)
    with pytest.raises(InitError, match="tests must be a folder, got a link in"):
        whole.write(folders["link"], force=force)
    with pytest.raises(InitError, match=r"recipe\.py must be a file, got a folder" if force else r"got recipe\.py in"):
        whole.write(folders["folder"], force=force)
    with pytest.raises(InitError, match="not Unicode"):
        replace(whole, files={**whole.files, "labels.txt": "cat\ud800\n"}).write(folders["surrogate"], force=force)
    with pytest.raises(InitError, match=r"gone\.onnx cannot be written: No such file"):
        replace(whole, files={**whole.files, "z.onnx": tmp_path / "gone.onnx"}).write(folders["lost"], force=force)
    left = {name: sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()}
    assert left == {"file": ["tests"], "link": ["tests"], "folder": ["recipe.py"], "surrogate": [], "lost": []}
    assert not (tmp_path / "test_pipeline.py").exists()


def test_force_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("mine")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "recipe.py").symlink_to(tmp_path / "mine.py")
    project_around("x", TIMM).write(folder, force=True)
    assert (tmp_path / "mine.py").read_text() == "mine"
    assert "ModelRecipe" in (folder / "recipe.py").read_text()
    assert not list(folder.glob(".init-*"))


def test_a_model_in_the_folder_stays_where_it_is(tmp_path: Path) -> None:
    onnx.save(CASES["array"][0], tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").stat()
    project_around("x", inspect(str(tmp_path / "model.onnx"))).write(tmp_path, force=False)
    assert (tmp_path / "model.onnx").stat() == before


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_name_is_one_of_a_stack_or_fails(name: str) -> None:
    if re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name) and len(name) <= 50:
        assert re.fullmatch("[A-Z][A-Za-z0-9]*", stack_name(project_name(name, Path())))
    else:
        with pytest.raises(InitError, match="name must be"):
            project_name(name, Path())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_literal_is_the_text(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text
    assert ast.literal_eval(literal((text, 1, 0.5))) == (text, 1, 0.5)


@pytest.mark.parametrize(
    ("folder", "name"), [("cats", "cats"), ("My Cats_2", "my-cats-2"), ("--", None), ("2cats", None), ("猫", None)]
)
def test_the_name_of_the_folder_is_used_or_fails(folder: str, name: str | None, tmp_path: Path) -> None:
    if name is None:
        with pytest.raises(InitError, match="pass one with --name"):
            project_name(None, tmp_path / folder)
    else:
        assert project_name(None, tmp_path / folder) == name


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nothing.onnx", "from must be an existing file"),
        ("weights.safetensors", "weights alone do not say what the model is"),
        ("forest.pkl", r"joblib\.dump"),
        ("damaged.onnx", "cannot be read"),
        ("hf:./nowhere", "an existing folder"),
        ("hf:a b", "a name such as hf:organisation/name"),
        ("hf:.", "with a config.json"),
        ("timm:resnet18", "needs timm"),
        ("ftp:model", "hf:NAME or timm:NAME"),
        ("forest.joblib", "needs scikit-learn and skl2onnx"),
        ("strings.onnx", "must have an output of numbers"),
        ("scalar.onnx", "inputs of numbers or strings, batch first"),
        ("sizes.onnx", "inputs with one batch size"),
        ("outputs.onnx", "output 'y' is left out, since its first size is 9, not the batch"),
        ("app.onnx", "other names than the project's, got data.py"),
    ],
)
def test_a_model_that_cannot_be_used_fails_with_its_reason(
    reference: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights.safetensors", "forest.pkl", "damaged.onnx", "forest.joblib"):
        Path(name).write_bytes(b"\x08" * 9)
    onnx.save(graph({"x": ("n", 3)}, {"label": ("n", 3)}), "strings.onnx")
    onnx.save(graph({"x": ()}, {"y": ()}), "scalar.onnx")
    onnx.save(graph({"x": ("n", 3), "z": (4, 3)}, {"y": ("n", 3)}), "sizes.onnx")
    onnx.save(graph({"x": ("n", 3)}, {"y": (9, 3)}), "outputs.onnx")
    Path("data.py").mkdir()
    save_outside("app.onnx", "data.py/w.data")
    with pytest.raises(InitError, match=says):
        project_around("x", inspect(reference))


LIBRARIES = {  # what the script needs of libraries that are not installed for tests; the estimator is a fitted one
    "sklearn/__init__.py": "",
    "sklearn/base.py": "def is_classifier(estimator): return False",
    "sklearn/compose.py": "class ColumnTransformer: pass",
    "sklearn/pipeline.py": "class Pipeline: pass",
    "skl2onnx/common/data_types.py": """
class FloatTensorType(list): pass
class StringTensorType(list): pass
""",
    "skl2onnx/__init__.py": """
def to_onnx(estimator, *, initial_types, **options):
    print({name: (type(kind).__name__[:-10], *kind) for name, kind in initial_types})
    return Model()

class Entry: pass

class Model:
    def __init__(self): self.metadata_props, self.entries = self, []
    def add(self): return self.entries.append(Entry()) or self.entries[-1]
    def SerializeToString(self): return print({each.key: each.value for each in self.entries}) or b"graph"
""",
    "joblib.py": """
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

class Step:
    def __init__(self, **learnt): self.__dict__.update(learnt)

def load(path):
    encoder = Step(categories_=[np.array(["a", "b"], object), np.array([1, 2])])
    imputed = Pipeline()
    imputed.steps = [("fill", Step(statistics_=np.array(["x"], object))), ("encode", Step())]
    columns = ColumnTransformer()
    columns.transformers_ = COLUMNS
    found = Pipeline()
    found.steps, found.n_features_in_ = [("columns", columns), ("trees", Step())], 6
    found.feature_names_in_ = np.array(["age", "city", "rooms", "job", "note", "id"], object)
    return found
""",
}


@pytest.mark.parametrize(
    ("columns", "types", "missing"),
    [
        (
            '[("n", Step(), ["age"]), ("c", encoder, ["city", "rooms"]), ("p", imputed, ["job"]), '
            '("t", Step(vocabulary_={}), "note"), ("remainder", "drop", ["id"])]',
            {"age": "Float", "city": "String", "rooms": "Float", "job": "String", "note": "String"},
            [],
        ),
        (
            '[("n", Step(statistics_=np.array([3.0])), slice(0, 1)), ("c", encoder, [3, 2])]',
            {"age": "Float", "city": "Float", "rooms": "Float", "job": "String", "note": "Float", "id": "Float"},
            ["age"],
        ),
    ],
)
def test_each_column_of_an_estimator_is_an_input_of_its_kind(
    tmp_path: Path, columns: str, types: dict[str, str], missing: list[str]
) -> None:
    libraries, project = tmp_path / "libraries", tmp_path / "project"
    project.mkdir()
    for name, text in LIBRARIES.items():
        (libraries / name).parent.mkdir(parents=True, exist_ok=True)
        (libraries / name).write_text(text.replace("COLUMNS", columns))
    (project / "convert.py").write_text(render("convert.py.j2", estimator="people.joblib", model="model.onnx"))
    known = os.environ | {"PYTHONPATH": str(libraries)}
    run = partial(subprocess.run, cwd=project, env=known, capture_output=True, text=True, check=False)
    done = run([sys.executable, "convert.py"])
    assert done.returncode == 0, done.stderr
    inputs, said = map(ast.literal_eval, done.stdout.splitlines())
    assert inputs == {name: (kind, None, 1) for name, kind in types.items()}
    assert json.loads(said["missing"]) == missing
    for command in (["check"], ["format", "--diff"]):
        clean = run(["ruff", *command, "--line-length=120", "convert.py"])
        assert clean.returncode == 0, clean.stdout


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)
FIELDS = (
    "vocab_size",
    "hidden_size",
    "type_vocab_size",
    "max_position_embeddings",
    "pad_token_id",
    "id2label",
    "image_size",
)
PROCESSOR_FIELDS = (
    "size",
    "crop_size",
    "image_mean",
    "image_std",
    "include_top",
    "do_normalize",
    "do_rescale",
    "rescale_factor",
)


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "Qwen2ForCausalLM", "WhisperForConditionalGeneration"])
def test_a_model_that_writes_fails_and_the_driver_is_named(architecture: str, tmp_path: Path) -> None:
    configuration = {"architectures": [architecture], "vocab_size": 9, "hidden_size": 12}
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    with pytest.raises(InferenceError, match=f"a {architecture}, which writes; write a recipe with a driver"):
        inspect(f"hf:{tmp_path}")


@given(
    st.sampled_from([*(each["architectures"][0] for each in HUB_MODELS.values()), "Other"]) | JSON,
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(st.sampled_from(PROCESSOR_FIELDS), JSON),
)
def test_any_configuration_is_one_of_a_model_or_fails(
    architecture: Any, configuration: dict[str, Any], preprocessor: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"architectures": [architecture], **configuration}))
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        (Path(folder) / "tokenizer.json").write_text("{}")
        with contextlib.suppress(InferenceError):
            project_around("x", inspect(f"hf:{folder}"))


@pytest.mark.parametrize(
    ("settings", "scaled"),
    [
        ({}, lambda x: (x / 255 - 0.5) / 0.5),
        ({"image_mean": 0, "image_std": [0.25, 0.5, 1]}, lambda x: x / 255 / [0.25, 0.5, 1]),
        ({"do_normalize": False, "image_mean": [0.5, 0.4, 0.3]}, lambda x: x / 255),
        ({"do_rescale": False, "image_mean": [127, 128, 129], "image_std": 64}, lambda x: (x - [127, 128, 129]) / 64),
        ({"do_rescale": False, "do_normalize": False}, lambda x: x),
        ({"rescale_factor": 0.003921568859368563, "do_normalize": False}, lambda x: x / 255),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, lambda x: x / 127.5 - 1),
        ({"image_mean": 0.4, "image_std": 0.2, "include_top": True}, lambda x: (x / 255 - 0.4) / 0.2 / 0.2),
        ({"do_flip_channel_order": True}, lambda x: x[:, ::-1] / 255),
        (
            {"do_flip_channel_order": True, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": 1},
            lambda x: (x / 255 - [0.1, 0.2, 0.3])[:, ::-1],
        ),
    ],
)
def test_pixels_are_scaled_as_the_processor_of_the_model_does(
    settings: dict[str, Any], scaled: Callable[[Any], Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUB_MODELS["photos"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    project = project_around("photos", inspect(f"hf:{tmp_path}"))
    factory = str(project.files["factory.py"])
    mean, std = ast.literal_eval(re.findall("^MEAN, STD = (.+)$", factory, re.MULTILINE)[0])
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3)).astype(float)
    made = (pixels / 255 - mean) / std
    assert np.allclose(made[:, ::-1] if ".flip(-1)" in factory else made, scaled(pixels), rtol=1e-5, atol=1e-6)
    assert any("no image_mean" in note for note in project.notes) == (not settings)


def test_a_crop_that_the_processor_does_not_make_is_not_the_size_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUB_MODELS["photos"]))
    sizes = {"crop_size": {"height": 40, "width": 40}, "size": {"height": 32, "width": 32}}
    for crops, side in ((True, 40), (False, 32)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_center_crop": crops, **sizes}))
        assert inspect(f"hf:{tmp_path}").inputs[0].shape == ("batch", side, side, 3)


@pytest.mark.parametrize(
    "settings", [{"image_std": 0}, {"image_std": [1, -1, 1]}, {"image_mean": float("nan")}, {"rescale_factor": -1}]
)
def test_a_processor_that_gives_no_usable_numbers_fails(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HUB_MODELS["photos"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InitError, match="must have a finite image_mean"):
        inspect(f"hf:{tmp_path}")


def save_outside(file: str, location: str) -> None:
    """Save a graph, and a weight of it in another file."""
    model = graph({"x": ("n", 3)}, {"y": ("n", 3)})
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4096, np.float32), "w"))
    onnx.save_model(model, file, save_as_external_data=True, location="w.data")
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    Path("w.data").replace(location)
    onnx.save(model, file)


@pytest.mark.parametrize(
    "location",
    [
        "conftest.py",
        "tests/test_more.py",
        ".git/hooks/post-checkout",
        ".github/workflows/w.data",
        "__pycache__/recipe.cpython-311.pyc",
        "data.so",
        "pytest.ini",
        "Makefile",
        "a\nb.data",
        "a\x1b[2J.data",
        "a\\b.data",
    ],
)
def test_weights_in_a_file_that_something_may_run_fail(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(location).parent.mkdir(parents=True, exist_ok=True)
    save_outside("net.onnx", location)
    with pytest.raises(InitError, match=r"weights in files such as net\.onnx\.data, got ") as error:
        inspect("net.onnx")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "location",
    [
        "net.onnx.data",
        "net.onnx_data_1",
        "w/net.bin",
        "model.layers.0.weight",
        "onnx__MatMul_12",
        "猫.data",
        "v1.0/net 2.data",
    ],
)
def test_weights_with_the_names_of_exporters_come_along(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(location).parent.mkdir(exist_ok=True)
    save_outside("net.onnx", location)
    assert project_around("x", inspect("net.onnx")).files[location] == Path(location)


@pytest.mark.parametrize("name", ['a".onnx', "{{ 7*7 }}.onnx", "a'''b\\.onnx", "猫.onnx", 'x"""\nimport os.onnx'])
def test_a_hostile_file_name_stays_a_name(name: str, tmp_path: Path) -> None:
    onnx.save(CASES["array"][0], tmp_path / name)
    folder = tmp_path / "project"
    project_around("x", inspect(str(tmp_path / name))).write(folder, force=False)
    recipe, _ = load_recipe(folder / "recipe.py")
    assert recipe.source.file == name  # type: ignore[union-attr]
    assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


class Answers(http.server.BaseHTTPRequestHandler):
    """A hub with one model."""

    files: ClassVar[dict[str, bytes]] = {
        "/api/models/org/reviews": json.dumps({"sha": COMMIT, "tags": ["pytorch", "license:apache-2.0"]}).encode(),
        f"/org/reviews/resolve/{COMMIT}/config.json": json.dumps(HUB_MODELS["reviews"]).encode(),
        f"/org/reviews/resolve/{COMMIT}/tokenizer.json": json.dumps(TOKENIZER).encode(),
    }

    def do_GET(self) -> None:
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield address
        server.shutdown()


def test_a_model_of_the_hub_is_pinned_to_its_commit_and_an_unknown_one_fails(hub: str, tmp_path: Path) -> None:
    project_around("reviews", inspect("hf:org/reviews")).write(tmp_path, force=False)
    recipe, _ = load_recipe(tmp_path / "recipe.py")
    assert recipe.provenance.license == "Apache-2.0"
    assert recipe.provenance.origin == f"https://huggingface.co/org/reviews at {COMMIT}"
    factory = (tmp_path / "factory.py").read_text()
    assert f'"org/reviews",\n            revision="{COMMIT}",' in factory
    assert not (tmp_path / "model").exists()
    with pytest.raises(InitError, match="that you may read, got 'hf:org/other'"):
        inspect("hf:org/other")


def test_a_hub_that_cannot_be_reached_fails_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InitError, match=r"http://127\.0\.0\.1:9 must be reachable"):
        inspect("hf:org/reviews")


@pytest.mark.slow
@pytest.mark.xdist_group("torch")
def test_a_program_is_inspected_and_what_could_run_code_fails(tmp_path: Path) -> None:
    import torch

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any, y: Any) -> Any:
            return x.mean((1, 2)), (x.sum((1, 2)) + y).to(torch.int64)

    free = {0: torch.export.Dim("n", min=1, max=64)}
    example = (torch.zeros(2, 4, 5), torch.zeros(2))
    torch.export.save(torch.export.export(Net(), example, dynamic_shapes=(free, free)), tmp_path / "net.pt2")
    found = inspect(str(tmp_path / "net.pt2"))
    assert found.inputs == (TensorSpec("x", "float32", ("batch", 4, 5)), TensorSpec("y", "float32", ("batch",)))
    assert found.outputs == (TensorSpec("output_0", "float32", ("batch",)), TensorSpec("output_1", "int64", ("batch",)))
    torch.save({"x": os.system}, tmp_path / "pickled.pt2")
    (tmp_path / "empty.pt2").write_bytes(b"")
    for name, says in {
        "pickled.pt2": r"pickled\.pt2 cannot be read",
        "empty.pt2": "must be a .pt2 file of torch.export.save",
    }.items():
        with pytest.raises(InitError, match=says):
            inspect(str(tmp_path / name))
