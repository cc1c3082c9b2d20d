"""How a model gets into its function: what each delivery makes of the template, and what none can deliver."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Annotations, Match
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Capacity,
    CpuInference,
    Execution,
    Inference,
    InferencePipeline,
    LambdaPlatform,
    ModelArtifact,
    ModelDelivery,
    Preprocess,
    PropError,
    WorkBucket,
)
from cdk_inference.bundling import delivery as module
from cdk_inference.bundling.bundle import BundledCode, lambda_source
from cdk_inference.bundling.delivery import ModelPackage
from cdk_inference.bundling.images import staged
from cdk_inference.bundling.packages import PackagedCode, ZipPackage
from cdk_inference.model.recipe.targets import WITH_VNNI

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model.recipe.targets import Architecture, Target

MIB = 1024**2
DELIVERIES = ("zip", "layer", "s3", "image")


@pytest.fixture
def stack() -> cdk.Stack:
    """A stack whose models are not built, unlike that of this folder's other tests."""
    return make_stack()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two files, as a build leaves them."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.weights").write_bytes(b"weights")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def built(folder: Path) -> Callable[..., ModelArtifact]:
    """Make a model of a stack, which counts as built, of that many bytes."""

    def make(stack: cdk.Stack, size: int = 12) -> ModelArtifact:
        model = ModelArtifact(stack, "Model", recipe=RECIPE)
        with (folder / "model.weights").open("wb") as weights:
            weights.truncate(size - len(b"graph"))
        model.path = folder
        return model

    return make


def add(stack: cdk.Stack, model: ModelArtifact, delivery: ModelDelivery | None = None, **props: Any) -> CpuInference:
    return CpuInference(stack, "Inference", model=model, work=WorkBucket(stack, "Work"), delivery=delivery, **props)


@pytest.mark.parametrize("target", ["arm64", "any"])
def test_model_whose_sums_saturate_fails_or_warns_on_x86_64(
    target: Target, stack: cdk.Stack, built: Callable[..., ModelArtifact]
) -> None:
    model = built(stack)
    model.manifest = replace(model.manifest, target=target, exact_on=("arm64", WITH_VNNI))
    platform = LambdaPlatform(architecture="x86_64")
    if target == "arm64":
        with pytest.raises(PropError, match=r"must be built for x86_64, got tiny for arm64"):
            add(stack, model, platform=platform)
    else:  # it came with 8-bit products
        add(stack, model, platform=platform)
        Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp(".*can saturate on x86_64.*"))


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_model_for_x86_64_runs_on_each_architecture_without_a_warning(
    architecture: Architecture, stack: cdk.Stack, built: Callable[..., ModelArtifact]
) -> None:
    model = built(stack)
    model.manifest = replace(model.manifest, target="x86_64")
    add(stack, model, platform=LambdaPlatform(architecture=architecture))
    Annotations.from_stack(stack).has_no_warning("*", Match.string_like_regexp(".*saturate.*"))


def function(stack: cdk.Stack) -> dict[str, Any]:
    (function,) = resources(stack, "AWS::Lambda::Function").values()
    properties: dict[str, Any] = function["Properties"]
    return properties


def variables(stack: cdk.Stack) -> dict[str, Any]:
    found: dict[str, Any] = function(stack)["Environment"]["Variables"]
    return found


def kind(stack: cdk.Stack) -> str:
    """Return how the model of a stack's function is delivered."""
    if function(stack).get("PackageType") == "Image":
        return "image"
    return str(variables(stack).get("MODEL_DELIVERY", "zip"))


@pytest.mark.parametrize("name", DELIVERIES)
def test_each_delivery(stack: cdk.Stack, built: Callable[..., ModelArtifact], name: str) -> None:
    add(stack, built(stack), getattr(ModelDelivery, name)())
    assert kind(stack) == name
    assert ("Layers" in function(stack)) is (name == "layer")
    assert "EphemeralStorage" not in function(stack)


def test_a_layer_is_shared_by_the_functions_of_a_stack(stack: cdk.Stack, built: Callable[..., ModelArtifact]) -> None:
    model, work = built(stack), WorkBucket(stack, "Work")
    for id in ("One", "Two"):
        CpuInference(stack, id, model=model, work=work, delivery=ModelDelivery.layer())
    (layer,) = resources(stack, "AWS::Lambda::LayerVersion")
    for made in resources(stack, "AWS::Lambda::Function").values():
        assert made["Properties"]["Layers"] == [{"Ref": layer}]


def test_from_s3_it_may_read_its_model_and_nothing_else(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], folder: Path
) -> None:
    add(stack, built(stack), ModelDelivery.s3())
    bucket = {"Fn::Sub": "cdk-hnb659fds-assets-${AWS::AccountId}-${AWS::Region}"}
    assert variables(stack)["MODEL_BUCKET"] == bucket
    files = json.loads(variables(stack)["MODEL_FILES"])
    assert [file["name"] for file in files] == ["model.onnx", "model.weights"]
    for file in files:
        path = folder / file["name"]
        assert file["size"] == path.stat().st_size
        assert len(file["sha256"]) == 64
    (policy,) = resources(stack, "AWS::IAM::Policy").values()
    (statement,) = (
        statement
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "assets-" in str(statement["Resource"])
    )
    assert statement["Action"] == "s3:GetObject"
    arn = ["arn:", {"Ref": "AWS::Partition"}, ":s3:::", bucket]
    assert statement["Resource"] == [{"Fn::Join": ["", [*arn, f"/{file['key']}"]]} for file in files]


def test_the_asset_is_named_by_the_model_s_bytes_alone(built: Callable[..., ModelArtifact], folder: Path) -> None:
    def keys() -> list[str]:
        stack = make_stack()
        add(stack, built(stack), ModelDelivery.s3())
        return [file["key"] for file in json.loads(variables(stack)["MODEL_FILES"])]

    first = keys()
    (folder / "model.onnx").chmod(0o600)
    os.utime(folder / "model.onnx", (1, 1))
    (folder / "manifest.json").write_text('{"another": 1}')
    assert keys() == first
    (folder / "model.onnx").write_bytes(b"other")
    assert keys() != first


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64 * MIB, "zip"),
        (250_000_000, "zip"),
        (262_144_001, "s3"),
        (448 * MIB, "s3"),
        (448 * MIB + 1, "image"),
    ],
)
def test_what_is_chosen_by_size(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch, size: int, expected: str
) -> None:
    chosen: list[str] = []
    for name in ("Zip", "S3", "Image"):
        _note(monkeypatch, getattr(module, f"{name}Delivery"), chosen)
    add(stack, built(stack, size))
    assert chosen == [expected]


def _note(monkeypatch: pytest.MonkeyPatch, delivery: type[ModelDelivery], chosen: list[str]) -> None:
    """Have a delivery note that it was chosen, without reading and copying hundreds of megabytes."""

    def bind(self: object, scope: Any, *, package: ZipPackage, name: str, platform: Any, **_: Any) -> PackagedCode:
        chosen.append(type(self).__name__.removesuffix("Delivery").lower())
        return package.resolve(scope, name=name, platform=platform)

    monkeypatch.setattr(delivery, "bind", bind)


def test_code_counts_too(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    _note(monkeypatch, module.S3Delivery, chosen)
    monkeypatch.setattr(module, "_planned_size", lambda _: 150_000_000)
    add(stack, built(stack, 120_000_000))
    assert chosen == ["s3"]


def _chosen(
    stack: cdk.Stack,
    model: ModelArtifact,
    monkeypatch: pytest.MonkeyPatch,
    platform: LambdaPlatform | None,
    **code: Any,
) -> list[str]:
    """Return what is chosen for code of 230 MB without its sources, and with what the user adds."""
    chosen: list[str] = []
    for name in ("Zip", "S3", "Image"):
        _note(monkeypatch, getattr(module, f"{name}Delivery"), chosen)
    monkeypatch.setattr(module, "_planned_size", lambda _: 230_000_000)
    scope: Any = cdk.aws_iam.Role(stack, "Role", assumed_by=cdk.aws_iam.ServicePrincipal("lambda.amazonaws.com"))
    resolved = platform if platform is not None else LambdaPlatform()
    package = ZipPackage(handler="h", **code)
    ModelDelivery.auto().bind(scope, package=package, model=model, name="X", platform=resolved)
    return chosen


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ({}, "zip"),
        ({"sources": {"preprocess.py": b"A = 1"}}, "zip"),
        ({"sources": {"table.bin": bytes(30 * MIB)}}, "s3"),
        ({"requirements": ("scipy==1.16.3",)}, "s3"),
    ],
)
def test_what_users_add_to_the_code_counts_also_beside_a_small_model(
    stack: cdk.Stack,
    built: Callable[..., ModelArtifact],
    monkeypatch: pytest.MonkeyPatch,
    code: dict[str, Any],
    expected: str,
) -> None:
    assert _chosen(stack, built(stack, 40 * MIB), monkeypatch, None, **code) == [expected]


def test_what_has_no_image_gets_its_large_model_from_s3(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = LambdaPlatform(wheels="x86_64-manylinux_2_28")
    assert _chosen(stack, built(stack, 600 * MIB), monkeypatch, platform) == ["s3"]


def test_the_choice_does_not_depend_on_the_bytecode_of_this_machine(tmp_path: Path) -> None:
    sizes = []
    for compiled in (0, 3):
        with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
            archive.writestr("detect.py", "A = 1\n")
            archive.writestr("library.so", b"1234")
            if compiled:
                archive.writestr("__pycache__/detect.cpython-314.pyc", bytes(compiled))
        sizes.append(module._planned_size(tmp_path / "code.zip"))
    assert sizes == [16, 16]


def test_the_local_target_has_no_images(built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make_stack(**{"cdk-inference:accelerator": "cpu"})
    add(stack, built(stack), ModelDelivery.image())
    assert kind(stack) == "zip"
    chosen: list[str] = []
    _note(monkeypatch, module.S3Delivery, chosen)
    other = make_stack(**{"cdk-inference:accelerator": "cpu"})
    add(other, built(other, 600 * MIB), ModelDelivery.image())
    assert chosen == ["s3"]


def test_tmp_is_as_large_as_the_model_needs(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPARE_STORAGE", 600)
    add(stack, built(stack, 5 * MIB), ModelDelivery.s3())
    assert function(stack)["EphemeralStorage"] == {"Size": 605}


def test_snapshots_of_a_model_that_does_not_fit_the_usual_tmp_fail(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPARE_STORAGE", 600)
    with pytest.raises(PropError, match="at most 512 MiB with SnapStart, got 601 MiB"):
        add(stack, built(stack), ModelDelivery.s3(), capacity=Capacity.snap_start())


def test_a_model_larger_than_the_memory_fails(stack: cdk.Stack, built: Callable[..., ModelArtifact]) -> None:
    with pytest.raises(
        PropError, match="memory_size of Inference must be larger than its model of 200 MiB, got 128 MiB"
    ):
        add(stack, built(stack, 200 * MIB), memory_size=128)


@pytest.mark.parametrize("name", ["zip", "layer"])
def test_what_lambda_does_not_unpack_fails(stack: cdk.Stack, built: Callable[..., ModelArtifact], name: str) -> None:
    with pytest.raises(PropError, match=rf"deliver it with ModelDelivery\.s3\(\) or \.image\(\), not by {name}"):
        add(stack, built(stack, 300_000_000), getattr(ModelDelivery, name)())


@pytest.mark.parametrize(("name", "size"), [("s3", 10_176 * MIB + 1), ("image", 10 * 1024 * MIB + 1)])
def test_a_model_that_is_too_large_for_its_delivery_fails(
    stack: cdk.Stack, built: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    monkeypatch.setattr(module, "_size", lambda _: size)
    package = ModelPackage(package=ZipPackage(handler="h"), model=built(stack), memory_size=10_240)
    bound = getattr(ModelDelivery, name)()
    with pytest.raises(PropError, match=r"of X must be at most \d+ MiB.*, got "):
        bound.bind(stack, package=package.package, model=package.model, name="X", platform=LambdaPlatform())


def test_an_image_for_another_system_fails(stack: cdk.Stack, built: Callable[..., ModelArtifact]) -> None:
    platform = LambdaPlatform(wheels="x86_64-manylinux_2_28")
    with pytest.raises(PropError, match=r"wheels must be left out for .*, whose image has Amazon Linux, got "):
        add(stack, built(stack), ModelDelivery.image(), platform=platform)


@pytest.mark.parametrize(
    ("wheels", "engine", "expected"),
    [
        (None, None, "c_api"),
        (None, "python", "python"),
        ("aarch64-apple-darwin", None, "python"),
        ("x86_64-manylinux_2_28", None, "c_api"),
    ],
)
def test_the_engine(stack: cdk.Stack, model: ModelArtifact, wheels: str | None, engine: Any, expected: str) -> None:
    add(stack, model, engine=engine, platform=LambdaPlatform(wheels=wheels))
    assert variables(stack)["INFERENCE_ENGINE"] == expected


@pytest.mark.parametrize(
    ("engine", "wheels", "message"),
    [
        ("C", None, "engine must be 'c_api' or 'python', got 'C'"),
        ("c_api", "aarch64-apple-darwin", "engine must be 'python' with wheels for aarch64-apple-darwin, got 'c_api'"),
    ],
)
def test_an_engine_that_is_not_there_fails(
    stack: cdk.Stack, model: ModelArtifact, engine: Any, wheels: str | None, message: str
) -> None:
    with pytest.raises(PropError, match=message):
        add(stack, model, engine=engine, platform=LambdaPlatform(wheels=wheels))


def test_a_pipeline_hands_both_on(stack: cdk.Stack, built: Callable[..., ModelArtifact]) -> None:
    InferencePipeline(
        stack,
        "Photos",
        model=built(stack),
        preprocess=Preprocess.image(size=224),
        inference=Inference.cpu(engine="python", delivery=ModelDelivery.s3()),
    )
    (found,) = (
        made["Properties"]["Environment"]["Variables"]
        for name, made in resources(stack, "AWS::Lambda::Function").items()
        if name.startswith("PhotosInference")
    )
    assert (found["INFERENCE_ENGINE"], found["MODEL_DELIVERY"]) == ("python", "s3")


@pytest.mark.parametrize("name", DELIVERIES)
def test_a_model_that_was_not_built_delivers_nothing(stack: cdk.Stack, model: ModelArtifact, name: str) -> None:
    add(stack, model, getattr(ModelDelivery, name)())
    assert kind(stack) == "zip"


@pytest.mark.parametrize("name", DELIVERIES)
def test_a_model_of_a_stack_that_is_not_selected_fails(name: str) -> None:
    app = cdk.App(context={"aws:cdk:bundling-stacks": ["Functions"]})
    model = ModelArtifact(cdk.Stack(app, "Models"), "Model", recipe=RECIPE)
    message = "stack 'Models' must be selected with 'Functions', where Functions/Inference runs its model tiny"
    with pytest.raises(PropError, match=message):
        add(cdk.Stack(app, "Functions"), model, getattr(ModelDelivery, name)())


def test_a_fused_function_with_a_model_of_a_stack_that_is_not_selected_fails() -> None:
    app = cdk.App(context={"aws:cdk:bundling-stacks": ["Functions"]})
    model = ModelArtifact(cdk.Stack(app, "Models"), "Model", recipe=RECIPE)
    with pytest.raises(
        PropError, match=r"where Functions/Photos/Score runs its model tiny; .* leave --exclusively out"
    ):
        InferencePipeline(
            cdk.Stack(app, "Functions"),
            "Photos",
            model=model,
            preprocess=Preprocess.image(size=224),
            execution=Execution.fused(),
        )


def test_hadolint_has_no_finding() -> None:
    command = [Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style"]
    dockerfile = lambda_source() / "cpu" / "Dockerfile"
    done = subprocess.run([*command, dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def bundled(folder: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Synthesize a stack whose code is really bundled, without an engine, and return its assembly and assets."""

    def synth(name: str, platform: LambdaPlatform, **code: Any) -> tuple[Path, dict[str, Any]]:
        app = cdk.App(outdir=str(tmp_path / f"{name}.out"))
        stack = cdk.Stack(app, "Stack")
        model = _Built(folder)
        scope = cdk.aws_iam.Role(stack, "Role", assumed_by=cdk.aws_iam.ServicePrincipal("lambda.amazonaws.com"))
        delivery: ModelDelivery = getattr(ModelDelivery, name)()
        package = ZipPackage(handler="inference_runtime.handlers.infer.handler", **code)
        packaged = delivery.bind(scope, package=package, model=model, name="X", platform=platform)  # type: ignore[arg-type]
        cdk.aws_lambda.Function(
            stack,
            "Function",
            code=packaged.code,
            handler=packaged.handler,
            runtime=packaged.runtime,
            architecture=packaged.architecture,
            layers=list(packaged.layers) or None,
        )
        app.synth()
        assets: dict[str, Any] = json.loads((Path(app.outdir) / "Stack.assets.json").read_text())
        return Path(app.outdir), assets

    return synth


class _Built:
    """As much of a model as its delivery asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = "1"
        self.manifest = type("Manifest", (), {"name": "tiny"})


def test_what_an_image_is_built_from(bundled: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh")
    tool.chmod(0o700)
    assembly, assets = bundled("image", LambdaPlatform("3.13", "x86_64"), sources={"tool": tool})
    (image,) = assets["dockerImages"].values()
    assert image["source"]["platform"] == "linux/amd64"
    assert image["source"]["dockerBuildArgs"] == {"PYTHON": "3.13"}
    context = assembly / image["source"]["directory"]
    files = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    assert {
        "Dockerfile",
        "model/model.onnx",
        "model/model.weights",
        "code/inference_runtime/handlers/infer.py",
    } <= files
    executables = {name for name in files if stat.S_IMODE((context / name).stat().st_mode) == 0o755}
    assert executables == {"code/tool"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in context.rglob("*")} <= {0o755, 0o644}


def test_bytecode_does_not_enter_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It differs between patch versions of Python, and each would deploy another image."""
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        for name in ("detect.py", "__pycache__/detect.cpython-314.pyc", "shapes/__pycache__/a.cpython-314.pyc"):
            archive.writestr(name, b"1")
    context = staged({"Dockerfile": b"FROM scratch"}, code=BundledCode(tmp_path / "code.zip", "a" * 64))
    files = {path.relative_to(context).as_posix() for path in context.rglob("*")}
    assert files == {"Dockerfile", "code", "code/detect.py"}


def test_what_is_in_a_layer(bundled: Callable[..., tuple[Path, dict[str, Any]]]) -> None:
    assembly, assets = bundled("layer", LambdaPlatform())
    contents = {}
    for asset in assets["files"].values():
        path = assembly / asset["source"]["path"]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                contents[path.name] = archive.namelist()
    layer, code = sorted(contents.values(), key=len)
    assert {"python/inference_model/model.onnx", "python/inference_model/model.weights"} <= set(layer)
    assert not any("model.onnx" in name for name in code)


@pytest.mark.parametrize("name", DELIVERIES)
def test_another_build_of_the_same_model_ships_the_same(
    bundled: Callable[..., tuple[Path, dict[str, Any]]], folder: Path, name: str
) -> None:
    def shipped(manifest: str) -> list[str]:
        (folder / "manifest.json").write_text(manifest)
        _, assets = bundled(name, LambdaPlatform("3.13", "x86_64"))
        return [*assets["files"], *assets.get("dockerImages", ())]  # by content; the template is one of the files

    first = shipped('{"measured": "1 ms"}')
    assert shipped('{"measured": "2 ms"}') == first
    (folder / "model.onnx").write_bytes(b"another")
    assert shipped("{}") != first
