"""Reads digits after scaling them: a pipeline of scikit-learn that ends in a network."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from case import Case, Run, batches
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import keep, samples, shuffled

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="tables: scaler and network of scikit-learn (trained here)",
    package="scikit-learn",
    file="",
    license="BSD-3-Clause",
    inputs=(TensorSpec("x", "float32", ("batch", 64)),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 10)),),
    seen="digits, as scikit-learn itself reads them",
    bound=0.98,
    metric="top1_agreement",
)
TRAINED, CALIBRATED, JUDGED = 900, 1000, 1300


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = shuffled(*load_digits(return_X_y=True))
    return x.astype(np.float32), y


@cache
def trained() -> Pipeline:
    x, y = data()
    network = MLPClassifier((256, 128), max_iter=60, random_state=0)
    return make_pipeline(StandardScaler(), network).fit(x[:TRAINED], y[:TRAINED])


def make() -> onnx.ModelProto:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, 64]))]
    return keep(to_onnx(trained(), initial_types=types, options={"zipmap": False}, target_opset=17), "probabilities")


def calibration():
    return batches(samples(data()[0], TRAINED, CALIBRATED), 20)


def evaluation():
    return batches(samples(data()[0], CALIBRATED, JUDGED), 20)


def original() -> Run:
    return lambda feed: {"probabilities": trained().predict_proba(feed["x"])}


def use(run: Run) -> list[int]:
    return [int(run(batch)["probabilities"].argmax()) for batch in batches(samples(data()[0], JUDGED, 1797), 1)]


def right(answers: list[int]) -> list[bool]:
    return np.equal(answers, data()[1][JUDGED:]).tolist()
