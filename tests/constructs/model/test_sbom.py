"""Bills of materials of a synthesized app, made from what is really bundled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from aws_cdk import App, Stack, Stage
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sagemaker as sagemaker
from cyclonedx.schema import SchemaVersion

from cdk_inference import (
    CpuInference,
    ModelArtifact,
    ModelDelivery,
    Preprocess,
    PreprocessFunction,
    S3Trigger,
    WorkBucket,
)
from cdk_inference.bundling.sbom import documents, main
from cdk_inference.common.cache import hash_file
from cdk_inference.gpu.image import gpu_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.model import BuiltModel

DELIVERIES = ("zip", "layer", "s3", "image")
Json = dict[str, Any]


def preprocess(stack: Stack, model: ModelArtifact, work: WorkBucket) -> None:
    stage, trigger = Preprocess.image(size=16), S3Trigger(stack, "Trigger")
    PreprocessFunction(stack, "Preprocess", stage=stage, model=model, trigger=trigger, work=work)


def synthesize(folder: Path, recipe: Path, cache: Path) -> None:
    app = App(outdir=str(folder))
    stack = Stack(Stage(app, "Prod"), "Photos")
    model = ModelArtifact(stack, "Model", recipe=recipe, cache_dir=cache)
    work = WorkBucket(stack, "Work")
    for name in DELIVERIES:
        CpuInference(stack, name, model=model, work=work, delivery=getattr(ModelDelivery, name)())
    preprocess(stack, model, work)
    image = gpu_image(stack, "Gpu", model=model, target="sagemaker")
    container = sagemaker.CfnModel.ContainerDefinitionProperty(image=image.image_uri)
    sagemaker.CfnModel(stack, "Endpoint", primary_container=container)
    app.synth()


@pytest.fixture(scope="module")
def assembly(tiny: tuple[Path, Path, BuiltModel], made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    recipe, cache, _ = tiny
    return made_once("sbom", lambda root: synthesize(root / "cdk.out", recipe, cache)) / "cdk.out"


def of(found: dict[str, Json], part: str) -> Json:
    """Return the document of the one function whose path has that part."""
    (document,) = (document for document in found.values() if f"/{part}" in document["metadata"]["component"]["name"])
    return document


def component(document: Json, name: str) -> Json:
    (component,) = (component for component in document["components"] if component["name"] == name)
    return component


def facts(component: Json) -> dict[str, str]:
    return {entry["name"].removeprefix("cdk-inference:"): entry["value"] for entry in component["properties"]}


@pytest.mark.slow
def test_every_document_fits_the_official_schema(assembly: Path) -> None:
    found, unknown = documents(assembly)
    assert len(found) == len(DELIVERIES) + 3  # preprocessing, SageMaker's and the model itself
    assert unknown == []
    from cyclonedx.validation.json import JsonStrictValidator  # compiles grammars for seconds

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for name, document in found.items():
        assert validator.validate_str(json.dumps(document)) is None, name
    broken = {**document, "components": [{"name": "numpy"}]}
    assert validator.validate_str(json.dumps(broken)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_function_lists_its_model_and_packages(
    assembly: Path, tiny: tuple[Path, Path, BuiltModel], delivery: str
) -> None:
    _, _, built = tiny
    document = of(documents(assembly)[0], delivery)
    names = {component["name"] for component in document["components"]}
    assert {"tiny", "onnxruntime", "cdk-inference"} <= names
    assert ("public.ecr.aws/lambda/python" in names) == (delivery == "image")
    model = component(document, "tiny")
    assert model["type"] == "machine-learning-model"
    assert model["version"] == built.manifest.model_version
    assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": hash_file(built.path / "model.onnx")}]
    assert component(document, "onnxruntime")["purl"].startswith("pkg:pypi/onnxruntime@1.")


@pytest.mark.slow
def test_a_model_says_how_it_was_built_and_judged(assembly: Path, tiny: tuple[Path, Path, BuiltModel]) -> None:
    _, _, built = tiny
    metric = built.manifest.metric
    assert metric is not None
    document = documents(assembly)[0][f"model.tiny.{built.manifest.model_version}.cdx.json"]
    model = document["metadata"]["component"]
    assert model["licenses"] == [{"license": {"name": "CC0-1.0"}}]
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": metric.name,
        "value": f"{metric.quantized:g}",
        "slice": "deployed model",
    }
    assert model["modelCard"]["modelParameters"]["inputs"] == [{"format": "images: uint8[batch, 16, 16, 3]"}]
    told = facts(model)
    assert told["precision"] == "static_int8"
    assert told["provenance:recipe"] == built.manifest.provenance["recipe"]
    assert told["provenance:origin"] == "random numbers"
    assert "provenance:version:torch" in told


@pytest.mark.slow
def test_a_function_has_the_hash_of_its_zip_and_what_wheels_have_inside(assembly: Path) -> None:
    document = of(documents(assembly)[0], "Preprocess")
    function = document["metadata"]["component"]
    zips = {sha256(path.read_bytes()).hexdigest(): path for path in assembly.rglob("asset.*.zip")}
    path = zips[function["hashes"][0]["content"]]
    with zipfile.ZipFile(path) as archive:
        installed = {name.split("-")[0] for name in archive.namelist() if name.endswith(".dist-info/METADATA")}
    libraries = {component["name"] for component in document["components"]}
    assert libraries == installed | {"cdk-inference"}
    assert facts(function)["runtime"] == "python3.14"
    pillow = component(document, "pillow")
    assert pillow["licenses"] == [{"expression": "MIT-CMU"}]
    assert "libjpeg" in " ".join(inner["name"] for inner in pillow["components"])


@pytest.mark.slow
def test_an_image_lists_its_base_and_pinned_packages(assembly: Path) -> None:
    document = of(documents(assembly)[0], "Endpoint")
    base = component(document, "public.ecr.aws/lambda/python")
    assert base["version"].startswith("3.14.")
    assert len(base["hashes"][0]["content"]) == 64
    assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "tiny"} <= {entry["name"] for entry in document["components"]}


@pytest.mark.slow
def test_the_command_writes_the_same_bytes_each_time_and_leaves_no_old_ones(assembly: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(assembly, tmp_path / "elsewhere")
    (copy / "sbom").mkdir()
    (copy / "sbom" / "Removed.cdx.json").write_text("{}")
    command = [sys.executable, "-m", "cdk_inference.bundling.sbom"]
    done = subprocess.run([*command, copy], capture_output=True, text=True, check=True)
    main([str(assembly), "--output", str(tmp_path / "again")])
    written = {path.name: path.read_bytes() for path in (copy / "sbom").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert "Removed.cdx.json" not in written
    assert done.stdout.count(" components\n") == len(written)
    serials = {json.loads(content)["serialNumber"] for content in written.values()}
    assert len(serials) == len(written)


def test_code_outside_of_the_assembly_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = App(outdir=str(tmp_path / "cdk.out"))
    stack = Stack(app, "Stack")
    options: Any = {"runtime": lambda_.Runtime.PYTHON_3_14, "handler": "index.handler"}
    from aws_cdk import aws_s3 as s3

    bucket = s3.Bucket.from_bucket_name(stack, "Bucket", "elsewhere")
    lambda_.Function(stack, "There", code=lambda_.Code.from_bucket(bucket, "code.zip"), **options)
    lambda_.Function(stack, "Here", code=lambda_.Code.from_inline("def handler(event, context): ..."), **options)
    app.synth()
    main([str(tmp_path / "cdk.out")])
    assert "no document for Stack/There" in capsys.readouterr().err
    assert list((tmp_path / "cdk.out" / "sbom").iterdir()) == []


def test_folder_that_is_not_an_assembly_fails(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"assembly must be a folder that cdk synth wrote, got .*; run cdk synth first"
    ):
        main([str(tmp_path)])


def test_stack_that_was_not_bundled_fails(tmp_path: Path, make_recipe: Callable[..., Path]) -> None:
    app = App(outdir=str(tmp_path), context={"aws:cdk:bundling-stacks": []})
    stack = Stack(app, "Stack")
    preprocess(stack, ModelArtifact(stack, "Model", recipe=make_recipe()), WorkBucket(stack, "Work"))
    app.synth()
    with pytest.raises(SystemExit, match="must contain the code of all functions; select all stacks in cdk synth"):
        main([str(tmp_path)])
