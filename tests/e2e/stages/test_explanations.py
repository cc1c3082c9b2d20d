"""Why the model answered so, on the row: of digits whose uploader asks, and of every row of a table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

DIGITS = Path(__file__).parents[3] / "model_assets" / "digits_cnn" / "digits.csv.gz"


def test_the_grid_of_a_digit_is_highest_on_its_strokes(digits: Watched) -> None:
    table = np.loadtxt(DIGITS, delimiter=",", dtype=np.uint8)[-20:]
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    for number, image in enumerate(images):
        digits.put(f"digits/{number}", image.tobytes(), explain="true")
    digits.put("digits/not asked", images[0].tobytes())
    keys = [*(f"digits/{number}" for number in range(len(images))), "digits/not asked"]
    assert set(digits.ends(keys).values()) == {"SUCCEEDED"}
    assert "explanation" not in digits.row("digits/not asked")
    on_strokes, elsewhere = [], []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        row = digits.row(f"digits/{number}")
        said = row["explanation"]
        assert "reason" not in said, said
        assert (said["method"], said["baseline"], said["runs"]) == ("occlusion", "mean", 65)
        assert said["label"] == row["prediction"]["label"] == str(label)
        assert said["score"] == pytest.approx(row["prediction"]["score"], abs=1e-4)
        grid = np.array(said["grid"], float)
        assert grid.shape == (8, 8)
        assert grid.min() >= 0
        assert grid.max() == 1
        on_strokes.append(grid[image > 8].mean())
        elsewhere.append(grid[image == 0].mean())
    assert np.mean(on_strokes) > 2 * np.mean(elsewhere)
    # Those for which there was time: one at least, since a batch begins with none.
    said = next(said for key in keys if "heat_map" in (said := digits.row(key).get("explanation", {})))
    bucket, _, key = said["heat_map"].removeprefix("s3://").partition("/")
    drawn = Image.open(io.BytesIO(digits.cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()))
    assert np.allclose(np.array(drawn) / 255, np.array(said["grid"], float), atol=0.01)  # a cell for each pixel


def test_a_row_of_a_table_says_what_each_field_adds(tables: Watched) -> None:
    tables.put("rows/why.json", json.dumps({"a": 3, "b": 1, "c": 0.5, "d": -1}).encode())
    assert tables.ends(["rows/why.json"]) == {"rows/why.json": "SUCCEEDED"}
    said = tables.row("rows/why.json")["explanation"]
    assert (said["method"], said["runs"]) == ("shapley", 17)
    assert set(said["values"]) == {"a", "b", "c", "d"}
    assert float(sum(said["values"].values()) + said["base"]) == pytest.approx(float(said["score"]), abs=1e-5)
    assert max(said["values"], key=said["values"].__getitem__) == "a"
