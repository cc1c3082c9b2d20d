"""Writes Arabic names in Latin letters, letter by letter: a decoder with attention and a hidden state."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from arabic_name_romanizer.inference import OnnxModel
from case import Case, Run

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="transliteration (decoder)",
    package="arabic-name-romanizer",
    file="arabic_name_romanizer/resources/decoder.onnx",
    license="MIT",
    inputs=(
        TensorSpec("prefix", "int64", ("batch", "targets")),
        TensorSpec("memory", "float32", ("batch", "sources", 256)),
        TensorSpec("src_mask", "bool", ("batch", "sources")),
        TensorSpec("hidden", "float32", ("batch", 2, 256)),
    ),
    outputs=(
        TensorSpec("logprobs", "float32", ("batch", 160)),
        TensorSpec("hidden_out", "float32", ("batch", 2, 256)),
    ),
    seen="best spelling of names",
    bound=0.9,
)
TEXT = """
محمد أحمد علي حسن حسين فاطمة خديجة عائشة مريم يوسف إبراهيم إسماعيل عبدالله خالد عمر عثمان سعيد سلمى ليلى نور
سارة هدى زينب كريم جمال طارق رشيد نبيل سمير وليد ماجد فيصل سلطان ناصر جابر منصور شريف عادل كمال بشير
رامي هشام أيمن باسم ياسين زياد لطيفة نادية سميرة جميلة حليمة أمينة رقية سعاد وفاء إيمان أسماء دعاء شيماء هند
"""
NAMES = TEXT.split()


class Listening(OnnxModel):
    """The package's search, with a decoder that is given, and that remembers what it was asked."""

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(Path(str(distribution(CASE.package).locate_file(CASE.file))).parent)
        self.asked: list[dict[str, np.ndarray]] = []
        step = self.backend.step

        def listen(prefix: np.ndarray, state: dict[str, np.ndarray]):
            feed = {"prefix": prefix.astype(np.int64), **state}
            self.asked.append(feed)
            if run is None:
                return step(prefix, state)
            answer = run(feed)
            return answer["logprobs"], {**state, "hidden": answer["hidden_out"]}

        self.backend.step = listen


def steps(part: int) -> list[dict[str, np.ndarray]]:
    """Return what the decoder is asked on the way to some names."""
    model = Listening()
    model.transliterate_units(NAMES[part::3][:8], None, 1)
    return model.asked[::2]


def calibration():
    return steps(0)


def evaluation():
    return steps(1)


def use(run: Run) -> list[str]:
    return [best[0][0] for best in Listening(run).transliterate_units(NAMES[2::3], None, 1)]
