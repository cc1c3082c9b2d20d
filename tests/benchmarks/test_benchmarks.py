"""The benchmarks work, and compare what they say they compare: with the tiny model, and one round."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cpu
from cdk_inference import LambdaPlatform
from cdk_inference.model import build_model

ROOT = Path(__file__).parents[2]


# The tests share what a benchmark prepares.
pytestmark = pytest.mark.xdist_group("benchmarks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


def bench(folder: Path, *arguments: str) -> list[dict]:
    """Return the runs that the file has after one more."""
    output = folder / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments, "--work", str(folder / "work")]
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "only shows that the benchmarks work" in done.stdout
    return json.loads(output.read_text())["runs"]


def by_name(run: dict) -> dict[str, dict]:
    return {figure["name"]: figure for figure in run["figures"]}


@pytest.fixture(scope="module")
def native(folder: Path) -> dict:
    # The benchmark finds it; its own build would have to import torch.
    build_model(ROOT / "model_assets" / "digits_cnn" / "recipe.py", architecture=LambdaPlatform.host().architecture)
    (run,) = bench(folder, "cold_start", "handler", "memory", "package_size", "warm")
    assert run["quick"]
    assert run["machine"]["cpus"] >= 1
    assert run["machine"]["int8_instructions"]
    return run


@pytest.fixture
def figures(native: dict) -> dict[str, dict]:
    return by_name(native)


@pytest.mark.slow
def test_the_packaged_function_is_measured_against_its_rivals(figures: dict[str, dict]) -> None:
    assert figures.keys() == {
        "cold_start/digits",
        "cold_start_eager/digits",
        "handler/digits",
        "memory/digits",
        "package_size",
        "warm_latency/digits",
        "warm_throughput/digits",
    }
    assert all(figure["ratio"] > 0 for figure in figures.values())
    assert figures["handler/digits"]["facts"]["ours_imports"] == []  # neither numpy, boto3 nor onnxruntime's package
    # Bytes do not depend on who else is busy.
    assert figures["package_size"]["ratio"] >= 4.5
    assert figures["memory/digits"]["ratio"] > 1.2


@pytest.mark.performance
def test_the_packaged_function_is_quicker_than_its_rivals(figures: dict[str, dict]) -> None:
    """One round is far from the goals, but so far every machine must be."""
    assert figures["cold_start/digits"]["ratio"] > 1.3
    assert figures["cold_start_eager/digits"]["ratio"] > 3
    assert figures["handler/digits"]["ratio"] > 1.3


@pytest.mark.slow
def test_a_subject_is_measured_without_vnni_too(folder: Path, native: dict) -> None:
    try:
        hidden = cpu.without_vnni()
    except cpu.CannotHideError as error:
        pytest.skip(str(error))
    if not hidden:
        pytest.skip("this CPU has no VNNI")
    kept, masked = bench(folder, "handler", "--without-vnni")
    assert kept == native
    assert (native["machine"]["vnni_hidden"], masked["machine"]["vnni_hidden"]) == (False, True)
    assert masked["machine"]["int8_instructions"] == ["avx2"]
    assert by_name(masked).keys() == {"handler/digits"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick"], "not for the docs; give --output"),
        (["options"], "not for the docs; give --output"),
        (["imports", "speed"], "got speed"),
    ],
)
def test_fails_before_it_measures(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert message in done.stderr
