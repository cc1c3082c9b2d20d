"""The pinned requirements: exact, complete, and without what the Lambda runtime brings."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cdk_inference.bundling.wheels import Requirements

# Dependencies of requirements that stay out of the bundle: see `StageCode.excluded_requirements` and
# `bundling.WheelPart`.
EXCLUDED = {
    "preprocess-text": {"huggingface-hub"},
    "onnxruntime": {"flatbuffers", "numpy", "packaging", "protobuf"},
}
FOLDER = Path(__file__).parents[2] / "lambda_src" / "requirements"
# Those of the container image are installed nowhere here: tests/constructs/bundling/test_gpu_image.py resolves them.
IMAGE = [FOLDER / "inference-gpu-cuda.txt", FOLDER / "inference-gpu.txt"]
FILES = sorted(set(FOLDER.glob("*.txt")) - set(IMAGE))


def pins(path: Path) -> dict[str, Requirement]:
    lines = Requirements(path).named
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def test_there_is_a_list_for_each_kind_of_function() -> None:
    assert {path.stem for path in FILES} == {
        "edge",
        "inference",
        "onnxruntime",
        "postprocess",
        "preprocess-audio",
        "preprocess-base",
        "preprocess-image",
        "preprocess-text",
        "sagemaker",
        "serving",
        "split-parquet",
        "split-video",
    }


@pytest.mark.parametrize("path", [*FILES, *IMAGE], ids=lambda path: path.stem)
def test_every_version_is_exact(path: Path) -> None:
    for requirement in pins(path).values():
        [specifier] = requirement.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version


@pytest.mark.parametrize("path", [*FILES, *IMAGE], ids=lambda path: path.stem)
def test_every_requirement_has_hashes(path: Path) -> None:
    """`make hashes` writes them."""
    text = path.read_text()
    for requirement in re.split(r"\n(?=[^\s#])", f"\n{text}")[1:]:
        lines = [line for line in requirement.splitlines() if not line.startswith("#")]
        first, *hashes = (line.removesuffix(" \\") for line in lines)
        assert Requirement(first), first
        assert hashes, f"{first} has no hash"
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), first
    assert Requirements(path).hashed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_they_need_is_pinned_too(path: Path) -> None:
    """Else a bundle would depend on the day it is made."""
    listed = pins(path)
    for name in listed:
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if canonicalize_name(needed.name) in EXCLUDED.get(path.stem, ()):
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in listed
                assert needed.specifier.contains(next(iter(listed[canonicalize_name(needed.name)].specifier)).version)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_boto_is_left_to_the_lambda_runtime(path: Path) -> None:
    brought = {"boto3", "botocore"} if path.stem != "serving" else {"boto3"}  # an image has no Lambda runtime
    assert not pins(path).keys() & brought


def test_one_version_of_each_package() -> None:
    versions: dict[str, set[str]] = {}
    for path in (*FILES, *IMAGE):
        for name, requirement in pins(path).items():
            versions.setdefault(name, set()).add(str(requirement.specifier))
    assert all(len(found) == 1 for found in versions.values())
