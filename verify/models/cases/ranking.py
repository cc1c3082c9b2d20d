"""Ranks cultivars of wines: LightGBM's ranker."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import lightgbm
import numpy as np
import onnx
from case import Case, Run, batches
from sklearn.datasets import load_wine
from tables import samples, shuffled

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="tables: LightGBM's ranker (trained here)",
    package="lightgbm",
    file="",
    license="MIT",
    inputs=(TensorSpec("x", "float32", ("batch", 13)),),
    outputs=(TensorSpec("variable", "float32", ("batch", 1)),),
    seen="the order of eight wines, as LightGBM itself ranks them (equal pairs)",
    bound=0.99,
    metric="mean_absolute_error",
)
TRAINED, JUDGED, QUERY = 80, 130, 8


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = shuffled(*load_wine(return_X_y=True))
    return x.astype(np.float32), y


@cache
def trained() -> lightgbm.LGBMRanker:
    x, y = data()
    ranker = lightgbm.LGBMRanker(n_estimators=40, num_leaves=7, random_state=0, n_jobs=1, verbose=-1)
    return ranker.fit(x[:TRAINED], y[:TRAINED], group=[QUERY] * (TRAINED // QUERY))


def make() -> onnx.ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    return convert_lightgbm(trained(), initial_types=[("x", FloatTensorType([None, 13]))], target_opset=15)


def evaluation():
    return batches(samples(data()[0], TRAINED, JUDGED), 10)


def original() -> Run:
    return lambda feed: {"variable": trained().predict(feed["x"])[:, None]}


def use(run: Run) -> list[list[float]]:
    queries = batches(samples(data()[0], JUDGED, JUDGED + 6 * QUERY), QUERY)
    return [run(batch)["variable"][:, 0].round(5).tolist() for batch in queries]


def agreement(expected: list[list[float]], found: list[list[float]]) -> float:
    """Return the share of pairs that are in the same order."""
    same = [
        np.sign(one[a] - one[b]) == np.sign(other[a] - other[b])
        for one, other in zip(expected, found, strict=True)
        for a, b in combinations(range(QUERY), 2)
    ]
    return float(np.mean(same))
