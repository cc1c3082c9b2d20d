"""Tells benign tumours from others, though values are missing: a pipeline of scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from case import Case, Run, batches
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import holes, keep, samples, shuffled

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="tables: imputer, scaler and logistic regression of scikit-learn (trained here)",
    package="scikit-learn",
    file="",
    license="BSD-3-Clause",
    inputs=(TensorSpec("x", "float32", ("batch", 30), nan=True),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 2)),),
    seen="benign or not, as scikit-learn itself says",
    bound=1.0,
    metric="top1_agreement",
)
TRAINED, JUDGED = 300, 420


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = shuffled(*load_breast_cancer(return_X_y=True))
    return holes(x), y


@cache
def trained() -> Pipeline:
    x, y = data()
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()).fit(
        x[:TRAINED], y[:TRAINED]
    )


def make() -> onnx.ModelProto:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, 30]))]
    return keep(to_onnx(trained(), initial_types=types, options={"zipmap": False}, target_opset=17), "probabilities")


def evaluation():
    return batches(samples(data()[0], TRAINED, JUDGED), 20)


def original() -> Run:
    return lambda feed: {"probabilities": trained().predict_proba(feed["x"])}


def use(run: Run) -> list[int]:
    return [int(run(batch)["probabilities"].argmax()) for batch in batches(samples(data()[0], JUDGED, 569), 1)]


def right(answers: list[int]) -> list[bool]:
    return np.equal(answers, data()[1][JUDGED:]).tolist()
