"""A state is carried over the parts of a long input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.engine.drivers import graphs

from inference_runtime.engine.drivers.open_driver import open_driver
from inference_runtime.engine.onnxruntime_c import CSession
from inference_runtime.engine.session import Threads
from inference_runtime.errors import LittleTimeError, StageError
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from inference_runtime.engine.interfaces import Session

CHUNK, CONTEXT = 3, 2
DESCRIPTION = {
    "kind": "recurrent",
    "graphs": [{"name": "adder", "reads": {}}],
    "states": {"state_out": "state"},
    "over": "sound",
    "chunk": CHUNK,
    "context": CONTEXT,
    "outputs": {"total": "each", "heard": "joined"},
}


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    """Drivers by how they collect the total."""
    found = {}
    for how in ("each", "last"):
        folder = tmp_path_factory.mktemp("adder")
        outputs = {"total": how, "heard": "joined"}
        graphs.write(folder, {**DESCRIPTION, "outputs": outputs}, {"adder": graphs.adder()})
        found[how] = open_driver(str(folder / "driver.json"), lambda path, _: CSession(path, Threads(1, spin=False)))
    return found


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 4), places=st.integers(1, 20))
def test_each_part_knows_those_before(drivers: dict[str, Session], seed: int, count: int, places: int) -> None:
    sound = np.random.default_rng(seed).integers(-9, 9, (count, places)).astype(np.float32)
    (each, heard), (last, _) = (
        [output.array() for output in driver.run({"sound": Tensor.of(sound)})] for driver in drivers.values()
    )
    steps = -(-places // CHUNK)
    filled = np.pad(sound, ((0, 0), (CONTEXT, steps * CHUNK - places)))
    windows = [filled[:, n * CHUNK : n * CHUNK + CHUNK + CONTEXT] for n in range(steps)]
    np.testing.assert_array_equal(heard, np.concatenate(windows, axis=1))
    totals = np.cumsum([window.sum(axis=1) for window in windows], axis=0).T
    np.testing.assert_array_equal(each, totals[:, :, None])
    np.testing.assert_array_equal(last, totals[:, -1:])


def test_what_is_declared_fits_what_comes_out(drivers: dict[str, Session]) -> None:
    assert [(value.name, value.shape) for value in drivers["each"].inputs] == [("sound", ("batch", None))]
    shapes = {how: [value.shape for value in driver.outputs] for how, driver in drivers.items()}
    assert shapes == {"each": [("batch", None, 1), ("batch", None)], "last": [("batch", 1), ("batch", None)]}


def test_no_places_or_no_time_fails(drivers: dict[str, Session]) -> None:
    driver = drivers["last"]
    with pytest.raises(StageError, match="'sound' must have one place or more"):
        driver.run({"sound": Tensor("float32", (2, 0), b"")})
    driver.deadline = 0.0
    with pytest.raises(LittleTimeError):
        driver.run({"sound": Tensor("float32", (1, 1), bytes(4))})
