from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model import (
    Auto,
    DetrHead,
    Download,
    DynamicInt8,
    EndToEndHead,
    Evaluation,
    Float16,
    Float32,
    HubFile,
    Manifest,
    MaskHead,
    Metric,
    ModelRecipe,
    NmsHead,
    OnnxFile,
    PackageFile,
    Provenance,
    StaticInt8,
    TensorSpec,
    TorchModule,
    TorchProgram,
    WeightOnly,
    YoloHead,
    build_model,
    load_recipe,
)
from cdk_inference.model.recipe.evaluation import BOX_METRICS, METRICS, TEXT_METRICS
from cdk_inference.model.recipe.precision import CALIBRATION_METHODS, OBJECTIVES, describe
from cdk_inference.model.recipe.tensors import DTYPES
from cdk_inference.model.records.manifest import SCHEMA_VERSION, Distribution, Measured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDENTIFIERS = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)
FUNCTIONS = st.builds("{}.py:{}".format, IDENTIFIERS, IDENTIFIERS)
SPECS = st.builds(
    TensorSpec,
    name=IDENTIFIERS,
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4096) | IDENTIFIERS, max_size=4).map(lambda sizes: ("batch", *sizes)),
)
HASHES = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
FILES = (
    IDENTIFIERS
    | st.builds(Download, url=st.builds("https://example.com/{}".format, IDENTIFIERS), sha256=HASHES)
    | st.builds(HubFile, repo=st.just("a/b"), path=IDENTIFIERS, revision=IDENTIFIERS, sha256=HASHES)
    | st.builds(PackageFile, package=IDENTIFIERS, path=IDENTIFIERS)
)
SOURCES = (
    st.builds(TorchModule, factory=FUNCTIONS, weights=st.none() | FILES)
    | st.builds(TorchProgram, file=FILES)
    | st.builds(OnnxFile, file=FILES, external_data=st.lists(FILES, max_size=2).map(tuple))
)
NODES = st.lists(IDENTIFIERS, max_size=2).map(tuple)
PINNED = (
    st.just(Float32())
    | st.builds(Float16, keep_float=NODES)
    | st.builds(
        StaticInt8,
        method=st.sampled_from(CALIBRATION_METHODS),
        percentile=st.floats(50, 100, exclude_min=True),
        keep_float=NODES,
    )
    | st.builds(DynamicInt8, keep_float=NODES)
    | st.builds(WeightOnly, bits=st.sampled_from((4, 8)), block_size=st.sampled_from((16, 128)), keep_float=NODES)
)
PRECISIONS = PINNED | st.builds(Auto, objective=st.sampled_from(OBJECTIVES), keep_float=NODES)
EVALUATIONS = st.builds(
    Evaluation,
    data=FUNCTIONS,
    metric=st.sampled_from(sorted({*METRICS} - {"mean_iou", "perplexity", *BOX_METRICS, *TEXT_METRICS})) | FUNCTIONS,
    max_drop=st.floats(0, 1),
    floor=st.none() | st.floats(0, 1),
    max_size_mb=st.none() | st.floats(0.1, 100),
)
PROVENANCE = Provenance(license="MIT", origin="https://example.com")


@given(
    specs=st.lists(SPECS, min_size=2, max_size=4, unique_by=lambda s: s.name),
    source=SOURCES,
    precision=PRECISIONS,
    evaluation=EVALUATIONS,
)
def test_recipe_survives_the_way_to_the_build_process(specs, source, precision, evaluation) -> None:
    recipe = ModelRecipe(
        name="m",
        source=source,
        inputs=tuple(specs[:1]),
        outputs=tuple(specs[1:]),
        precision=precision,
        evaluation=evaluation,
        provenance=PROVENANCE,
        calibration="data.py:calibration",
        packages=("a", "b"),
    )
    assert ModelRecipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe
    assert hash(recipe) == hash(ModelRecipe.from_data(recipe.to_data()))


@given(
    head=st.builds(YoloHead, output=st.none() | st.just("y"), objectness=st.booleans(), iou=st.floats(0.1, 1))
    | st.builds(NmsHead, scores=st.just("y"), classes=st.just("y"), first_class=st.integers(0, 9))
    | st.builds(DetrHead, logits=st.just("z"), boxes=st.just("boxes"), activation=st.just("sigmoid"))
    | st.builds(EndToEndHead, output=st.just("rows"))
    | st.builds(
        MaskHead, output=st.just("z"), channels=st.sampled_from(["first", "last"]), threshold=st.none() | st.just(0.5)
    )
)
def test_heads_survive_the_way_to_the_build_process(head) -> None:
    shapes = {"y": (9, 99), "rows": (99, 6), "boxes": (99, 4), "z": (99, 9)}
    if isinstance(head, NmsHead):
        shapes["y"] = (99,)
    if isinstance(head, MaskHead):
        shapes["z"] = (9, 9, 9) if head.threshold is None else (1, 9, 1)
    names = {str(value) for value in vars(head).values()} & shapes.keys() or {"y"}
    evaluation = Evaluation(data="d.py:f", metric="mean_iou" if isinstance(head, MaskHead) else "box_f1", head=head)
    outputs = tuple(TensorSpec(name, "float32", ("batch", *shapes[name])) for name in sorted(names))
    recipe = recipe_with(evaluation=evaluation, outputs=outputs)
    assert ModelRecipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe


def test_recipes_are_described_as_before_there_were_heads_and_missing_values() -> None:
    """Otherwise no lock from then would hold."""
    data = recipe_with().to_data()
    assert "head" not in data["evaluation"]
    masks = Evaluation(data="d.py:f", metric="mean_iou", head=MaskHead())
    outputs = (TensorSpec("z", "float32", ("batch", 9, 9, 9)),)
    assert recipe_with(evaluation=masks, outputs=outputs).to_data()["evaluation"]["head"] == {
        "kind": "mask",
        "output": None,
        "channels": "first",
    }
    assert "nan" not in data["inputs"][0]
    inputs = (TensorSpec("x", "float32", ("batch",), nan=True), TensorSpec("s", "string", ("batch",)))
    recipe = recipe_with(inputs=inputs)
    assert ModelRecipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe


@given(precision=PINNED)
def test_precisions_are_described_in_one_line(precision) -> None:
    assert describe(precision)
    assert describe(precision).isprintable()


def test_packages_whose_files_are_used_count_as_packages() -> None:
    source = OnnxFile(PackageFile("weights-package", "weights/m.onnx"), external_data=(PackageFile("more", "a.bin"),))
    assert recipe_with(source=source, packages=("mine",)).packages == ("mine", "weights-package", "more")


def test_unknown_and_missing_members_fail_with_their_place() -> None:
    data = recipe_with().to_data()
    data["evaluation"]["metrics"] = "cosine"
    del data["provenance"]["license"]
    with pytest.raises(ValueError, match=r"(?s)extra fields found \(metrics\) @ \$\.evaluation.*required.*license"):
        ModelRecipe.from_data(data)


def recipe_with(**changes: Any) -> ModelRecipe:
    right = {
        "name": "m",
        "source": TorchModule("f.py:build"),
        "inputs": (TensorSpec("x", "uint8", ("batch", 2)),),
        "outputs": (TensorSpec("y", "float32", ("batch", 2)),),
        "evaluation": Evaluation(data="d.py:f"),
        "provenance": PROVENANCE,
    }
    return ModelRecipe(**right | changes)


@given(shape=st.lists(st.integers(-3, 3) | st.text(max_size=3) | st.booleans() | st.none(), max_size=4))
def test_shape_is_right_or_fails_by_name(shape: list[Any]) -> None:
    valid = shape and all(
        (isinstance(s, str) and s.isascii() and s.isidentifier())
        or (isinstance(s, int) and not isinstance(s, bool) and s > 0)
        for s in shape
    )
    if valid:
        assert TensorSpec("x", "float32", tuple(shape)).shape == tuple(shape)
    else:
        with pytest.raises(ModelBuildError, match=r"recipe field 'x\.shape' must be "):
            TensorSpec("x", "float32", tuple(shape))


@given(percentile=st.floats())
def test_percentile_outside_its_range_fails(percentile: float) -> None:
    assume(not 50 < percentile <= 100)
    with pytest.raises(ModelBuildError, match="recipe field 'percentile' must be "):
        StaticInt8(percentile=percentile)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "a/b"}),
        ("name", {"name": ""}),
        ("name", {"name": "a" * 101}),
        ("source", {"source": "factory.py:build"}),
        ("inputs", {"inputs": ()}),
        ("outputs", {"outputs": [("scores", "float32", (1,))]}),
        ("inputs/outputs", {"outputs": (TensorSpec("x", "float32", ("batch",)),)}),
        ("evaluation", {"evaluation": None}),
        ("precision", {"precision": "int8"}),
        ("provenance", {"provenance": "MIT"}),
        ("y.dtype", {"outputs": (TensorSpec("y", "string", ("batch",)),)}),
        ("y.nan", {"outputs": (TensorSpec("y", "float32", ("batch",), nan=True),)}),
        ("packages", {"packages": "torch"}),
        ("calibration", {"calibration": "data.calibration"}),
        ("calibration", {"calibration": "../data.py:calibration"}),
        ("calibration", {"precision": StaticInt8()}),
    ],
)
def test_wrong_field_fails_with_its_name(field: str, changes: dict[str, Any]) -> None:
    recipe_with()
    with pytest.raises(ModelBuildError, match=f"recipe field '{field}' must be "):
        recipe_with(**changes)


SHA = "0" * 64


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TensorSpec("", "uint8", ("batch",)), "name"),
        (lambda: TensorSpec("a\nb", "uint8", ("batch",)), "name"),
        (lambda: TensorSpec("x", "complex64", ("batch",)), "x.dtype"),
        (lambda: TorchModule("factory:build"), "factory"),
        (lambda: TorchModule("/abs/factory.py:build"), "factory"),
        (lambda: TorchModule("../factory.py:build"), "factory"),
        (lambda: TorchModule("sub/../../factory.py:build"), "factory"),
        (lambda: TorchModule("f.py:build", weights="../weights.safetensors"), "weights"),
        (lambda: TorchModule("f.py:build", weights=b"weights"), "weights"),
        (lambda: TorchProgram("/model.pt2"), "file"),
        (lambda: OnnxFile("a\0b.onnx"), "file"),
        (lambda: OnnxFile("m.onnx", external_data="m.data"), "external_data"),
        (lambda: Download("http://example.com/m.onnx", SHA), "url"),
        (lambda: Download("file:///etc/passwd", SHA), "url"),
        (lambda: Download("https:///m.onnx", SHA), "url"),
        (lambda: Download("https://example.com/", SHA), "url"),
        (lambda: Download("https://example.com/..%2Fm.onnx", SHA, name="../m.onnx"), "name"),
        (lambda: Download("https://example.com/m.onnx", "abc"), "sha256"),
        (lambda: Download("https://example.com/m.onnx", "A" * 64), "sha256"),
        (lambda: HubFile("a/b/c", "m.onnx", "main", SHA), "repo"),
        (lambda: HubFile("a/b", "../m.onnx", "main", SHA), "path"),
        (lambda: HubFile("a/b", "m.onnx", "../x", SHA), "revision"),
        (lambda: PackageFile("", "m.onnx"), "package"),
        (lambda: PackageFile("p", "../../m.onnx"), "path"),
        (lambda: Evaluation(data="../d.py:f"), "evaluation.data"),
        (lambda: StaticInt8(method="entropy"), "method"),
        (lambda: StaticInt8(keep_float="Conv"), "keep_float"),
        (lambda: WeightOnly(bits=3), "bits"),
        (lambda: WeightOnly(block_size=100), "block_size"),
        (lambda: Auto(objective="cost"), "objective"),
        (lambda: Evaluation(data="d.py:f", metric="accuracy"), "metric"),
        (lambda: Evaluation(data="d.py:f", metric="top0"), "metric"),
        (lambda: Evaluation(data="d.py:f", max_drop=5), "max_drop"),
        (lambda: Evaluation(data="d.py:f", metric="mean_absolute_error", max_drop=-1), "max_drop"),
        (lambda: Evaluation(data="d.py:f", max_drop=float("nan")), "max_drop"),
        (lambda: Evaluation(data="d.py:f", min_confidence=1), "min_confidence"),
        (lambda: Evaluation(data="d.py:f", metric="cosine", min_confidence=0.5), "min_confidence"),
        (lambda: Evaluation(data="d.py:f", max_latency_ms=0), "max_latency_ms"),
        (lambda: Evaluation(data="d.py:f", max_size_mb=True), "max_size_mb"),
        (lambda: Evaluation(data="d.py:f", class_names="/labels.txt"), "class_names"),
        (lambda: Evaluation(data="d.py:f", metric="box_f1"), "head"),
        (lambda: Evaluation(data="d.py:f", metric="box_f1", head=MaskHead()), "head"),
        (lambda: Evaluation(data="d.py:f", metric="box_map"), "head"),
        (lambda: Evaluation(data="d.py:f", metric="mean_iou", head=YoloHead()), "head"),
        (lambda: Evaluation(data="d.py:f", head=YoloHead()), "head"),
        (lambda: Provenance(license="", origin="x"), "license"),
        (lambda: Provenance(license="MIT", origin=""), "origin"),
    ],
)
def test_wrong_part_fails_with_the_field_name(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ModelBuildError, match=f"recipe field '{field}' must be "):
        make()


@given(url=st.text(max_size=30))
def test_url_is_right_or_fails_by_name(url: str) -> None:
    try:
        file = Download(url, SHA)
    except ModelBuildError as error:
        assert "recipe field" in str(error)  # noqa: PT017 - one of both
    else:
        assert file.file_name


def test_recipe_file_gives_the_recipe_and_its_folder(make_recipe: Callable[..., Path]) -> None:
    file = make_recipe()
    recipe, folder = load_recipe(file)
    assert (recipe.name, folder) == ("tiny", file.parent)
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nRECIPE = 1 / 0", r"recipe\.py cannot be run: ZeroDivisionError on line 2: division by zero$"),
        ("RECIPE = (", r"recipe\.py cannot be run: SyntaxError on line 1: "),
        (
            "import no_such_module",
            r"recipe\.py cannot be run: ModuleNotFoundError on line 1: No module named 'no_such_module'$",
        ),
        ("recipe = 1", r"recipe\.py must define a ModelRecipe, got no RECIPE; write RECIPE = ModelRecipe\(\.\.\.\)$"),
        ("RECIPE = 'efficientnet'", r"recipe\.py must define a ModelRecipe, got a RECIPE of type str; write "),
        (
            "from cdk_inference.model import Evaluation\nRECIPE = Evaluation(data='data.py')",
            r"recipe\.py: recipe field 'evaluation\.data' must be 'file\.py:function', .*, got 'data\.py'",
        ),
    ],
)
def test_bad_recipe_file_fails_with_file_and_reason(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.py"
    file.write_text(text)
    with pytest.raises(ModelBuildError, match=message):
        load_recipe(file)


def test_missing_recipe_file_fails_with_its_path(tmp_path: Path) -> None:
    message = (
        rf"recipe must be an existing file, got {tmp_path}/nothing\.py; pass the path of a file that defines RECIPE"
    )
    with pytest.raises(ModelBuildError, match=message):
        load_recipe(tmp_path / "nothing.py")


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("model.onnx", 'OnnxFile("model.onnx")'),
        ("model.pt2", 'TorchProgram("model.pt2")'),
        ("weights.pth", 'TorchModule("model.py:build", weights="weights.pth")'),
    ],
)
def test_model_instead_of_a_recipe_fails_with_the_recipe_to_write(tmp_path: Path, model: str, source: str) -> None:
    (tmp_path / model).write_bytes(b"\x08\x0a\0")
    with pytest.raises(ModelBuildError) as raised:
        load_recipe(tmp_path / model)
    assert str(raised.value) == (
        f"recipe must be a Python file that defines RECIPE, got the model {tmp_path / model}; "
        f"write a recipe.py next to it, with RECIPE = ModelRecipe(source={source}, …)"
    )


def test_folder_instead_of_a_recipe_fails_with_the_file_to_pass(make_recipe: Callable[..., Path]) -> None:
    file = make_recipe()
    got = f"recipe must be a Python file that defines RECIPE, got the folder {file.parent}; "
    with pytest.raises(ModelBuildError) as raised:
        load_recipe(file.parent)
    assert str(raised.value) == f"{got}pass {file}"
    file.unlink()
    with pytest.raises(ModelBuildError) as raised:
        load_recipe(file.parent)
    assert str(raised.value) == f"{got}write {file}, and pass it"


@pytest.mark.parametrize("call", [load_recipe, build_model])
def test_recipe_that_is_no_path_fails(call: Callable[..., object]) -> None:
    with pytest.raises(PropError, match=r"must be a str(, Path| or Path).*, got int 3"):
        call(3)


MANIFEST = Manifest(
    name="m",
    model_version="0123456789ab",
    inputs=(TensorSpec("x", "uint8", ("batch", 2)),),
    outputs=(TensorSpec("y", "float32", ("batch", 2)),),
    architecture="convolutional",
    precision="static_int8",
    target="x86_64",
    exact_on=("arm64", "x86_64"),
    opset=18,
    size_bytes=1,
    baseline_size_bytes=4,
    metric=Metric("cosine", 1.0, 0.99, 0.95, 100),
    parity={"exported": 1.0},
    measured=Measured("a cpu", 2.0, 1.0, 2.0, 100.0, 50.0, 60.0, {"1": 1.0, "2": 0.6}),
    batch_dependent=False,
    distributions={"y": Distribution(0.5, 0.1, (0.0, 0.5, 1.0), {"1": 0.6, "0": 0.4})},
    provenance={"license": "MIT"},
)


def test_manifest_survives_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_manifest_of_another_schema_fails() -> None:
    text = MANIFEST.to_json().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
    with pytest.raises(ValueError, match=f"manifest must have schema version {SCHEMA_VERSION}, got 99"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"size_bytes": 1', '"size_bytes": "1"', r"size_bytes"),
        ('"gate": 0.95,', "", r"required field missing @ \$\.metric\.gate"),
        ('"opset": 18', '"opset": 18, "opsets": 1', r"extra fields found \(opsets\)"),
        ('"dtype": "uint8"', '"dtype": "uint7"', r"dtype"),
    ],
)
def test_manifest_that_is_not_valid_fails_with_the_member(old: str, new: str, message: str) -> None:
    assert old in MANIFEST.to_json()
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(MANIFEST.to_json().replace(old, new))
