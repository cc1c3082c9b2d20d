"""A network small enough to build in seconds, written out as a user would write a recipe."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cdk_inference.model import BuiltModel

    MadeOnce = Callable[[str, Callable[[Path], object]], Path]
    BuildOnce = Callable[[str, Callable[[Path], Path]], tuple[Path, Path, BuiltModel]]

RECIPE = """
from cdk_inference.model import Auto, Evaluation, Float32, ModelRecipe, Provenance, StaticInt8, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="tiny",
    source=TorchModule("factory.py:build"),
    inputs=(TensorSpec("images", "uint8", ("batch", 16, 16, 3)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 5)),),
    precision=StaticInt8(),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", max_drop=0.1),
    provenance=Provenance(license="CC0-1.0", origin="random numbers"),
)
"""
FACTORY = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.second = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, images):
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))

def build():
    model = Tiny()
    for weights in model.parameters():  # wide enough that the answer depends on the image
        torch.nn.init.normal_(weights)
    return model
"""
DATA = """
import numpy as np

def batches(seed):
    random = np.random.default_rng(seed)
    for _ in range(4):
        colours = random.integers(0, 256, (8, 1, 1, 3))
        noise = random.integers(-20, 21, (8, 16, 16, 3))
        yield {"images": np.clip(colours + noise, 0, 255).astype(np.uint8)}

def calibration():
    return batches(1)

def evaluation():
    return batches(2)
"""


def write_recipe(folder: Path, **changes: tuple[str, str]) -> Path:
    """Write the tiny recipe, with text replaced in the files named, and return the recipe file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"recipe": RECIPE, "factory": FACTORY, "data": DATA}.items():
        old, new = changes.get(name, ("", ""))
        assert old in text
        (folder / f"{name}.py").write_text(text.replace(old, new) if old else text)
    return folder / "recipe.py"


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny recipe below the test's folder: ``make_recipe(to="recipe", factory=(old, new))``."""
    return lambda to="recipe", **changes: write_recipe(tmp_path / to, **changes)


@pytest.fixture(scope="session")
def build_once(made_once: MadeOnce) -> Callable[[str, Callable[[Path], Path]], tuple[Path, Path, BuiltModel]]:
    """Return recipe file, cache and artifact of a network that all test processes share.

    Whoever writes into the cache copies it before.
    """

    def build(name: str, write: Callable[[Path], Path]) -> tuple[Path, Path, BuiltModel]:
        root = made_once(name, lambda root: build_model(write(root / "recipe"), cache=root / "cache"))
        recipe = root / "recipe" / "recipe.py"
        return recipe, root / "cache", build_model(recipe, cache=root / "cache")

    return build


@pytest.fixture(scope="session")
def tiny(build_once: BuildOnce) -> tuple[Path, Path, BuiltModel]:
    """Recipe file, cache and artifact of the tiny network."""
    return build_once("tiny", write_recipe)


@pytest.fixture
def tiny_copy(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> tuple[Path, Path, BuiltModel]:
    """The tiny network with a copy of its cache, to be written to."""
    recipe, cache, _ = tiny
    unfinished = shutil.ignore_patterns(".*")  # another test's process may be building there
    copy = shutil.copytree(cache, tmp_path / "copied cache", ignore=unfinished)
    return recipe, copy, build_model(recipe, cache=copy)


@pytest.fixture
def onnx_recipe(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> Path:
    """A recipe of the tiny network as an ONNX file: a process that builds it need not import torch."""
    recipe = write_recipe(tmp_path / "onnx")
    text = recipe.read_text().replace("factory.py:build", "model.onnx").replace("TorchModule", "OnnxFile")
    recipe.write_text(text)
    (recipe.parent / "factory.py").unlink()
    (graph,) = (folder for folder in (tiny[1] / "passes").glob("clean-*/model.onnx"))
    shutil.copy(graph, recipe.parent)
    return recipe


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Give up root's right to write everywhere, as the effective user of this thread's process."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
