"""Says how deep a sleeper sleeps: the boosted trees of YASA, which LightGBM trained on 3,000 nights."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution

import joblib
import lightgbm
import numpy as np
import onnx
from case import Case, Run, batches
from tables import keep

from cdk_inference.model import TensorSpec

COUNT = 151

CASE = Case(
    kind="sleep stages (LightGBM)",
    package="yasa",
    file="",
    license="BSD-3-Clause",
    inputs=(TensorSpec("x", "float32", ("batch", COUNT)),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 5)),),
    seen="stages of half minutes, as LightGBM itself says",
    bound=0.98,
    metric="top1_agreement",
)


@cache
def trained() -> lightgbm.LGBMClassifier:
    file = distribution(CASE.package).locate_file("yasa/classifiers/clf_eeg+eog+emg+demo_lgb_0.5.0.joblib")
    return joblib.load(str(file))


def make() -> onnx.ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, COUNT]))]
    return keep(convert_lightgbm(trained(), initial_types=types, zipmap=False, target_opset=15), "probabilities")


@cache
def thresholds() -> list[np.ndarray]:
    """Return where the trees split each feature."""
    found: list[list[float]] = [[] for _ in range(COUNT)]

    def walk(node: dict) -> None:
        if "threshold" in node:
            found[node["split_feature"]].append(node["threshold"])
            walk(node["left_child"])
            walk(node["right_child"])

    for tree in trained().booster_.dump_model()["tree_info"]:
        walk(tree["tree_structure"])
    return [np.sort(values) if values else np.zeros(1) for values in found]


def nights(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    """Return features as the trees know them: for each, a value from between two of its splits."""
    random = np.random.default_rng(seed)
    columns = []
    for values in thresholds():
        places = random.integers(0, len(values), (2, count))
        columns.append(values[places].mean(axis=0))
    return [{"x": row} for row in np.stack(columns, axis=1).astype(np.float32)]


def evaluation():
    return batches(nights(2, 100), 20)


def original() -> Run:
    return lambda feed: {"probabilities": trained().predict_proba(feed["x"])}


def use(run: Run) -> list[int]:
    return [int(run(batch)["probabilities"].argmax()) for batch in batches(nights(3, 200), 1)]
