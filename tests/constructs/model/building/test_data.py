"""The messages of the build process about a user's functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import TensorSpec
from cdk_inference.model.building.evaluation.data import Samples, first_batch, load_function, load_samples

if TYPE_CHECKING:
    from pathlib import Path

INPUTS = (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("mask", "bool", ("batch",)))
RIGHT = """
import numpy as np

def batches():
    yield {"x": np.zeros((3, 2), np.float32), "mask": np.ones(3, bool)}
"""


def load(folder: Path, text: str) -> Samples:
    (folder / "d.py").write_text(text)
    return load_samples(folder, "d.py:batches", "evaluation.data", INPUTS)


def test_batches_as_declared_pass(tmp_path: Path) -> None:
    (batch,) = load(tmp_path, RIGHT).inputs
    assert batch["x"].shape == (3, 2)


def test_files_of_a_recipe_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "size_of_this_recipe.py").write_text("ROWS = 3")
    (batch,) = load(tmp_path, "from size_of_this_recipe import ROWS" + RIGHT.replace("(3, 2)", "(ROWS, 2)")).inputs
    assert batch["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(3, 2)", "(3, 4)", r"batch 0: 'x' must be float32 \('batch', 2\), as declared, got float32 \(3, 4\)$"),
        ("np.float32", "np.float64", r"batch 0: 'x' must be float32 .*, got float64 \(3, 2\)$"),
        ("np.ones(3, bool)", "np.ones(4, bool)", r"batch 0: 'mask' must be bool .*, got bool \(4,\)$"),
        ('"mask"', '"masks"', r"batch 0 must be a dict with \['mask', 'x'\], got \['masks', 'x'\]$"),
        ("yield {", "return; yield {", r"evaluation\.data 'd\.py:batches' must yield at least one batch, got none$"),
        (
            "def batches",
            "def batch",
            r"evaluation\.data must name a function that .*d\.py defines, got 'd\.py:batches'$",
        ),
        (
            "np.zeros((3, 2), np.float32)",
            "np.full((3, 2), np.nan, np.float32)",
            r"batch 0: 'x' must be finite, got 6 of 6 values that are not; if NaN .* TensorSpec\(…, nan=True\)$",
        ),
        (
            "np.zeros((3, 2), np.float32)",
            "np.full((3, 2), np.inf, np.float32)",
            r"batch 0: 'x' must be finite, got 6 of 6 values that are not$",
        ),
        ("(3, 2)", "(0, 2)", r"batch 0: 'mask' must be bool .*, got bool \(3,\)$"),
        ("yield {", "yield [1]; yield {", r"batch 0 must be a dict with \['mask', 'x'\], got list$"),
        (
            "yield {",
            "return {",
            r"must yield batches, got one dict that it returns; write yield in the place of return$",
        ),
        ("yield {", "yield (1,); yield {", r"batch 0 must be \(inputs, labels\) or .*, got 1 members$"),
    ],
)
def test_batches_unlike_their_declaration_fail(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelBuildError, match=message):
        load(tmp_path, RIGHT.replace(old, new))


def test_function_that_yields_no_batches_but_something_else_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"evaluation\.data 'd\.py:batches' must yield batches, got int$"):
        load(tmp_path, "def batches():\n    return 5\n")
    with pytest.raises(ModelBuildError, match=r"must yield batches, got one tuple that it returns; write yield in"):
        load(tmp_path, "def batches():\n    return {'x': []}, [0, 1]\n")


def test_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"factory must name an existing file, got 'f\.py:build'; write .*f\.py$"):
        load_function(tmp_path, "f.py:build", "factory")


def labelled(labels: str, texts: str) -> str:
    batch = '{"x": np.zeros((3, 2), np.float32), "mask": np.ones(3, bool)}'
    return f"import numpy as np\n\ndef batches():\n    yield {batch}, {labels}, {texts}\n"


def test_labels_and_descriptions_come_along(tmp_path: Path) -> None:
    samples = load(tmp_path, labelled("[0, 1, 2]", "['a', 'b', 'c']"))
    assert samples.labelled
    assert (samples.labels, samples.descriptions, samples.sizes) == ([[0, 1, 2]], [["a", "b", "c"]], [3])
    assert not load(tmp_path, labelled("None", "None")).labelled


@pytest.mark.parametrize(
    ("labels", "texts", "message"),
    [
        ("[0, 1]", "None", r"batch 0 must have 3 labels, one per sample, got 2$"),
        ("np.array(7)", "None", r"batch 0 must have 3 labels, one per sample, got a single value$"),
        ("np.arange(4)", "None", r"batch 0 must have 3 labels, one per sample, got 4$"),
        ("None", "['a']", r"batch 0 must have 3 descriptions, one per sample, got 1$"),
    ],
)
def test_labels_or_descriptions_of_another_number_fail(tmp_path: Path, labels: str, texts: str, message: str) -> None:
    with pytest.raises(ModelBuildError, match=message):
        load(tmp_path, labelled(labels, texts))


def test_digest_is_the_same_if_and_only_if_the_inputs_are(tmp_path: Path) -> None:
    one, two = load(tmp_path, labelled("None", "None")), load(tmp_path, labelled("[0, 1, 2]", "['a', 'b', 'c']"))
    other = load(tmp_path, labelled("None", "None").replace("zeros", "ones"))
    assert one.digest == two.digest != other.digest


def test_first_batch_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(RIGHT + "    raise RuntimeError('too far')\n")
    assert first_batch(tmp_path, "d.py:batches", "evaluation.data", INPUTS)["x"].shape == (3, 2)


def test_missing_values_and_strings_pass_where_they_are_declared(tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(
        "import numpy as np\n\n\ndef batches():\n"
        "    yield {'x': np.array([np.nan, 1], np.float32), 'town': np.array(['Oslo', 'Köln'], object)}\n"
    )
    inputs = (TensorSpec("x", "float32", ("batch",), nan=True), TensorSpec("town", "string", ("batch",)))
    samples = load_samples(tmp_path, "d.py:batches", "evaluation.data", inputs)
    assert samples.inputs[0]["town"].tolist() == ["Oslo", "Köln"]
    assert len(samples.digest) == 64
    text = (tmp_path / "d.py").read_text()
    for old, new, message in (
        ("np.nan", "np.inf", r"'x' must be finite or NaN, got 1 of 2 values that are not$"),
        ("'Oslo'", "1", r"'town' must be string \('batch',\), as declared, got object \(2,\)$"),
    ):
        (tmp_path / f"{len(old)}.py").write_text(text.replace(old, new))
        with pytest.raises(ModelBuildError, match=message):
            load_samples(tmp_path, f"{len(old)}.py:batches", "evaluation.data", inputs)
