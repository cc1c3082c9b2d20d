"""Forecasts how diabetes goes on, with a category and missing values: LightGBM."""

from __future__ import annotations

from functools import cache

import lightgbm
import numpy as np
import onnx
from case import Case, Run, batches
from sklearn.datasets import load_diabetes
from tables import holes, samples, shuffled

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="tables: LightGBM, a category and missing values (trained here)",
    package="lightgbm",
    file="",
    license="MIT",
    inputs=(TensorSpec("x", "float32", ("batch", 10), nan=True),),
    outputs=(TensorSpec("variable", "float32", ("batch", 1)),),
    seen="progress after a year, as LightGBM itself forecasts (within 1 of 346)",
    bound=0.97,  # LightGBM compares in 64 bits, and its converter rounds where it splits
    metric="mean_absolute_error",
)
TRAINED, JUDGED = 240, 340
SEX = 1


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = shuffled(*load_diabetes(return_X_y=True, scaled=False))
    x[:, SEX] -= 1
    table = holes(x)
    table[:, SEX] = x[:, SEX]
    return table, y


@cache
def trained() -> lightgbm.LGBMRegressor:
    x, y = data()
    trees = lightgbm.LGBMRegressor(n_estimators=80, num_leaves=7, random_state=0, n_jobs=1, verbose=-1)
    return trees.fit(x[:TRAINED], y[:TRAINED], categorical_feature=[SEX])


def make() -> onnx.ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    return convert_lightgbm(trained(), initial_types=[("x", FloatTensorType([None, 10]))], target_opset=15)


def evaluation():
    return batches(samples(data()[0], TRAINED, JUDGED), 20)


def original() -> Run:
    return lambda feed: {"variable": trained().predict(feed["x"])[:, None]}


def use(run: Run) -> list[float]:
    return [float(run(batch)["variable"][0, 0]) for batch in batches(samples(data()[0], JUDGED, 442), 1)]


def agreement(expected, found) -> float:
    return float(np.mean(np.abs(np.subtract(expected, found)) < 1))


def right(answers: list[float]) -> list[bool]:
    """Tell whose progress is forecast within 60 of 346."""
    return (np.abs(answers - data()[1][JUDGED:]) < 60).tolist()
