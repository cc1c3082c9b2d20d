"""What the build process says about a user's functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import TensorSpec
from cdk_inference.model.build.data import load_batches, load_function

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

INPUTS = (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("mask", "bool", ("batch",)))
RIGHT = """
import numpy as np

def batches():
    yield {"x": np.zeros((3, 2), np.float32), "mask": np.ones(3, bool)}
"""


def load(folder: Path, text: str) -> list[dict[str, np.ndarray]]:
    (folder / "d.py").write_text(text)
    return load_batches(folder, "d.py:batches", "evaluation.data", INPUTS)


def test_batches_as_declared_pass(tmp_path: Path) -> None:
    (batch,) = load(tmp_path, RIGHT)
    assert batch["x"].shape == (3, 2)


def test_files_of_a_recipe_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "size_of_this_recipe.py").write_text("ROWS = 3")
    (batch,) = load(tmp_path, "from size_of_this_recipe import ROWS" + RIGHT.replace("(3, 2)", "(ROWS, 2)"))
    assert batch["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(3, 2)", "(3, 4)", r"batch 0: 'x' is declared as float32 \('batch', 2\), got float32 \(3, 4\)$"),
        ("np.float32", "np.float64", r"batch 0: 'x' is declared as float32 .*, got float64 \(3, 2\)$"),
        ("np.ones(3, bool)", "np.ones(4, bool)", r"batch 0: 'mask' is declared as bool .*, got bool \(4,\)$"),
        ('"mask"', '"masks"', r"batch 0: expected a dict with \['mask', 'x'\], got \['masks', 'x'\]$"),
        ("yield {", "return; yield {", r"evaluation\.data 'd\.py:batches' yielded no batches$"),
        (
            "def batches",
            "def batch",
            r"evaluation\.data is 'd\.py:batches', but .*d\.py defines no function 'batches'$",
        ),
    ],
)
def test_batches_unlike_their_declaration_fail(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelBuildError, match=message):
        load(tmp_path, RIGHT.replace(old, new))


def test_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"factory is 'f\.py:build', but .*f\.py does not exist$"):
        load_function(tmp_path, "f.py:build", "factory")
