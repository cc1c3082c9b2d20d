"""The benchmark of GPUs, without one: the script works, and says what it did not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdk_inference.model import Float16, build_model

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "model_assets" / "digits_cnn" / "recipe.py"
CONTENDERS = ["gpu", "gpu_shared", "torch", "cpu"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", RECIPE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    common = ["--batches", "1", "20", "--rounds", "2", "--seconds", "0.05", "--starts", "1"]
    for precision in (Float16(), None):  # the script finds them; its own builds would import torch for each
        build_model(RECIPE, precision=precision)
    done = run("--device", "cpu", "--output", str(output), *common)
    assert done.returncode == 0, done.stderr
    note, header, one, many, *_ = done.stdout.splitlines()
    assert note.startswith("WITHOUT A GPU")
    assert header.split() == ["batch", *(f"{name}/s" for name in CONTENDERS), "gpu/gpu_shared", "gpu/torch", "gpu/cpu"]
    assert [line.split()[0] for line in (one, many)] == ["1", "20"]

    figures = json.loads(output.read_text())
    assert figures["device"] == "cpu"
    assert figures["where"] == dict.fromkeys(CONTENDERS, "cpu")
    assert figures["precisions"]["gpu"] == "float16"
    assert all(value > 0.99 for value in figures["cosine_to_torch"].values())
    for found in figures["batches"].values():
        rates, ratios = found["items_per_second"], found["ratios"]
        assert all(rate > 0 for rate in rates.values())
        assert all(ratio > 0 for ratio in ratios.values())
    assert all(seconds > 0 for seconds in figures["first_result_seconds"].values())
    assert all(memory["host"] > 20 for memory in figures["memory_megabytes"].values())

    done = run(*common)
    assert done.returncode != 0
    assert "there is no GPU" in done.stderr
