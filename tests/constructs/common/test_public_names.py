"""Names that are imported on first use can be found: by `dir`, by completion, and after a typing mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cdk_inference
import cdk_inference.model


@pytest.mark.parametrize("package", [cdk_inference, cdk_inference.model])
def test_dir_shows_each_public_name(package):
    assert set(package.__all__) <= set(dir(package))
    assert {"__doc__", "__file__"} <= set(dir(package))


@pytest.mark.parametrize(
    ("package", "typo", "meant"),
    [
        ("cdk_inference", "InferencePipline", "InferencePipeline"),
        ("cdk_inference.model", "ModelRecepi", "ModelRecipe"),
    ],
)
def test_typo_in_a_name_fails_with_the_name_that_is_meant(package, typo, meant, tmp_path):
    programs = [f"import {package}\n{package}.{typo}"]
    if sys.version_info >= (3, 12):  # Python 3.11 suggests nothing after `from … import`
        programs.append(f"from {package} import {typo}")
    for program in programs:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"Did you mean: '{meant}'?" in done.stderr
