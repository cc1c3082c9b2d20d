"""The parts of an item and how they are hidden, next to numpy. A row says at most 1,000 bytes of them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference_runtime.explanations.cells import Cells
from inference_runtime.explanations.features import Features
from inference_runtime.explanations.heat_map import heat_map
from inference_runtime.explanations.tokens import Tokens
from inference_runtime.tensors.tensor import Tensor, arrays_of

DTYPES = ["uint8", "int32", "float16", "float32", "float64"]
MOST = 1_000


@given(
    st.sampled_from(["HW", "HWC", "CHW"]), st.sampled_from(DTYPES), st.integers(1, 20), st.integers(1, 20), st.data()
)
def test_hidden_cells_show_the_fill_and_all_others_the_picture(
    layout: str, dtype: str, height: int, width: int, data: st.DataObject
) -> None:
    channels, grid = (3 if "C" in layout else 1), data.draw(st.integers(1, 8))
    shape = [{"H": height, "W": width, "C": channels}[axis] for axis in layout]
    picture = np.random.default_rng(0).integers(10, 100, [1, *shape]).astype(dtype)
    fill = [1.0, 2.0, 3.0][:channels]
    cells = Cells({"x": Tensor.of(picture)}, input="x", layout=layout, fill=fill, grid=grid)
    assert (cells.rows, cells.columns) == (min(grid, height), min(grid, width))
    hidden = data.draw(st.lists(st.integers(0, 2**cells.count - 1), min_size=1, max_size=3))
    (found,) = arrays_of(cells.hidden(hidden)).values()

    rows = np.searchsorted([n * height // cells.rows for n in range(1, cells.rows)], np.arange(height), "right")
    columns = np.searchsorted([n * width // cells.columns for n in range(1, cells.columns)], np.arange(width), "right")
    number = rows[:, None] * cells.columns + columns
    for coalition, one in zip(hidden, found, strict=True):
        mask = np.array([coalition >> int(n) & 1 for n in number.reshape(-1)], bool).reshape(number.shape)
        planes = {"HW": one[None], "HWC": one.transpose(2, 0, 1) if layout == "HWC" else one, "CHW": one}[layout]
        before = {
            "HW": picture,
            "HWC": picture[0].transpose(2, 0, 1) if layout == "HWC" else picture,
            "CHW": picture[0],
        }
        for plane, whole, value in zip(planes, before[layout], fill, strict=True):
            assert np.array_equal(plane, np.where(mask, np.array(value, dtype), whole))


@given(st.integers(2, 12), st.data())
def test_a_grid_is_from_0_to_1_and_small_whatever_the_weights(grid: int, data: st.DataObject) -> None:
    picture = Tensor.of(np.zeros((1, 24, 24), np.uint8))
    cells = Cells({"x": picture}, input="x", layout="HW", fill=[0], grid=grid)
    weights = data.draw(st.lists(st.floats(-1e300, 1e300), min_size=cells.count, max_size=cells.count))
    said = cells.described(weights, 1.0)
    assert [len(row) for row in said["grid"]] == [grid] * grid
    values = [value for row in said["grid"] for value in row]
    assert all(0 <= value <= 1 for value in values)
    assert len(json.dumps(said)) <= MOST
    if max(weights) > 0:
        assert values[weights.index(max(weights))] == 1
        assert all(value == 0 for value, weight in zip(values, weights, strict=True) if weight <= 0)


def test_cells_become_coarser_until_they_would_say_nothing() -> None:
    cells = Cells({"x": Tensor.of(np.zeros((1, 8, 8), np.uint8))}, input="x", layout="HW", fill=[0], grid=8)
    coarser = cells.coarser()
    assert coarser is not None
    assert (coarser.rows, coarser.columns) == (4, 4)
    assert coarser.coarser() is None


def tokens(ids: list[int], mask: list[int] | None = None, *, attended: bool = True) -> Tokens:
    inputs = {"input_ids": Tensor.of(np.array([ids], np.int64))}
    if mask is not None:
        inputs["attention_mask"] = Tensor.of(np.array([mask], np.int64))
        inputs["token_type_ids"] = Tensor.of(np.zeros((1, len(ids)), np.int64))
    return Tokens(inputs, replacement=99, attended=attended, special=[1, 2], text_of="<{}>".format)


def test_hidden_tokens_give_way_and_special_and_padded_ones_stay() -> None:
    text = tokens([1, 7, 8, 9, 2, 0, 0], [1, 1, 1, 1, 1, 0, 0])
    assert text.count == 3
    found = arrays_of(text.hidden([0b000, 0b101, 0b010]))
    expected = [[1, 7, 8, 9, 2, 0, 0], [1, 99, 8, 99, 2, 0, 0], [1, 7, 99, 9, 2, 0, 0]]
    assert found["input_ids"].tolist() == expected
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0]] * 3
    assert found["token_type_ids"].shape == (3, 7)
    unseen = tokens([1, 7, 8, 9, 2, 0, 0], [1, 1, 1, 1, 1, 0, 0], attended=False)
    assert arrays_of(unseen.hidden([0b101]))["attention_mask"].tolist() == [[1, 0, 1, 0, 1, 0, 0]]


def test_adjacent_tokens_are_hidden_together_where_time_is_short() -> None:
    text = tokens([1, *range(3, 13), 2])
    pairs = text.coarser()
    assert pairs is not None
    assert pairs.count == 5
    assert arrays_of(pairs.hidden([1]))["input_ids"].tolist() == [[1, 99, 99, *range(5, 13), 2]]
    assert pairs.described([5.0, 4.0, 3.0, 2.0, 1.0], 1.0)["tokens"][0] == {"token": "<3><4>", "weight": 5.0}
    eights = pairs.coarser().coarser()  # type: ignore[union-attr]
    assert eights is not None
    assert eights.count == 2
    assert eights.coarser() is None


def test_the_weightiest_tokens_of_a_long_text_stay_in_its_order() -> None:
    text = tokens([1, *range(3, 259), 2])
    weights = [0.0] * 256
    weights[200], weights[10], weights[100] = -0.5, 0.25, 1.0
    said = text.described(weights, 1.0)
    heavy = [each for each in said["tokens"] if each["weight"]]
    assert heavy == [
        {"token": "<13>", "weight": 0.25},
        {"token": "<103>", "weight": 1.0},
        {"token": "<203>", "weight": -0.5},
    ]
    assert said["left_out"] == 256 - len(said["tokens"])
    assert len(json.dumps(said)) <= MOST


@pytest.mark.parametrize("dtype", DTYPES)
def test_hidden_features_have_their_means(dtype: str) -> None:
    x = Tensor.of(np.array([[5, 6, 7]], dtype))
    row = Features({"x": x}, places=[("x", 0), ("x", 1), ("x", 2)], fill=[1, 2, 3], names=["a", "b", "c"])
    assert arrays_of(row.hidden([0b000, 0b110, 0b001]))["x"].tolist() == [[5, 6, 7], [5, 2, 3], [1, 6, 7]]
    assert row.coarser() is None


def test_columns_of_strings_and_numbers_are_hidden_where_they_are() -> None:
    inputs = {"colour": Tensor.of(np.array([["red"]], object)), "age": Tensor.of(np.array([41], np.int64))}
    row = Features(inputs, places=[("colour", 0), ("age", 0)], fill=["blue", 30], names=["colour", "age"])
    found = arrays_of(row.hidden([0b00, 0b01, 0b10, 0b11]))
    assert found["colour"].tolist() == [["red"], ["blue"], ["red"], ["blue"]]
    assert found["age"].tolist() == [41, 41, 30, 30]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200), st.floats(-1e6, 1e6))
def test_features_and_base_add_up_on_the_row_however_many_there_are(weights: list[float], whole: float) -> None:
    names = [f"a feature with quite a long name {place}" for place in range(len(weights))]
    places = [("x", place) for place in range(len(weights))]
    x = Tensor.of(np.zeros((1, len(weights)), np.float32))
    row = Features({"x": x}, places=places, fill=[0] * len(weights), names=names)
    said = row.described(weights, whole)
    parts = sum(said["values"].values()) + said.get("others", 0) + said["base"]
    assert parts == pytest.approx(whole, abs=1e-3)
    assert len(json.dumps(said)) <= MOST
    assert ("others" in said) == (len(said["values"]) < len(weights))


@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 60), st.integers(1, 60))
def test_a_heat_map_is_a_picture_that_others_read(rows: int, columns: int, height: int, width: int) -> None:
    grid = np.random.default_rng(rows * columns).random((rows, columns))
    drawn = Image.open(io.BytesIO(heat_map(grid.tolist(), height, width)))
    assert (drawn.format, drawn.mode, drawn.size) == ("PNG", "P", (width, height))
    # Pillow resizes so too, as long as a picture becomes no smaller.
    if height >= rows and width >= columns:
        floats = Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        assert np.abs(np.array(drawn) / 255 - np.array(floats)).max() < 0.01
    shades = np.array(drawn.convert("RGBA"))[..., 3]
    assert np.array_equal(shades, np.array(drawn).astype(int) * 200 // 255)
