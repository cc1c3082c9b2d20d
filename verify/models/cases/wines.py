"""Tells wines by their chemistry, though values are missing: XGBoost."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import xgboost
from case import Case, Run, batches
from sklearn.datasets import load_wine
from tables import holes, keep, samples, shuffled

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="tables: XGBoost, missing values (trained here)",
    package="xgboost-cpu",
    file="",
    license="Apache-2.0",
    inputs=(TensorSpec("x", "float32", ("batch", 13), nan=True),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 3)),),
    seen="cultivars of wines, as XGBoost itself says",
    bound=1.0,
    metric="top1_agreement",
)
TRAINED, JUDGED = 80, 120


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = shuffled(*load_wine(return_X_y=True))
    return holes(x), y


@cache
def trained() -> xgboost.XGBClassifier:
    x, y = data()
    return xgboost.XGBClassifier(n_estimators=60, max_depth=4, random_state=0, n_jobs=1).fit(x[:TRAINED], y[:TRAINED])


def make() -> onnx.ModelProto:
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = convert_xgboost(trained(), initial_types=[("x", FloatTensorType([None, 13]))], target_opset=15)
    return keep(model, "probabilities")


def evaluation():
    return batches(samples(data()[0], TRAINED, JUDGED), 8)


def original() -> Run:
    return lambda feed: {"probabilities": trained().predict_proba(feed["x"])}


def use(run: Run) -> list[int]:
    return [int(run(batch)["probabilities"].argmax()) for batch in batches(samples(data()[0], JUDGED, 178), 1)]


def right(answers: list[int]) -> list[bool]:
    return np.equal(answers, data()[1][JUDGED:]).tolist()
