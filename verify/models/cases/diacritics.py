"""Restores the vowel marks of Arabic: a recurrent network that its package has quantized already."""

from __future__ import annotations

import json
import unicodedata
from importlib.metadata import distribution

import numpy as np
from case import Case, Run

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="Arabic vowel marks (int8 already)",
    package="text2tashkeel",
    file="text2tashkeel/models/rawi.int8.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("input", "int64", ("batch", "sequence")),),
    outputs=(TensorSpec("output", "float32", ("batch", "sequence", 73)),),
    seen="marks of letters in sentences",
    bound=0.97,
)
SUBJECTS = ["الولد", "البنت", "المعلم", "الطبيب", "المهندس", "الكاتب", "الطالب", "الأم", "الأب", "الجار"]
VERBS = ["يقرأ", "يكتب", "يشرب", "يأكل", "يفتح", "يرى", "يحمل", "يبيع", "يعرف", "يحب"]
OBJECTS = ["الكتاب", "الماء", "التفاح", "الباب", "الرسالة", "السيارة", "البيت", "الدرس", "المدينة", "القهوة"]
PLACES = ("في الحديقة", "في المدرسة", "كل يوم", "مع صديقه", "عند الباب", "بعد الغروب", "في الصباح")


def sentences(seed: int, count: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words) for words in (SUBJECTS, VERBS, OBJECTS, PLACES)) for _ in range(count)]


def feeds(seed: int, count: int):
    vocabulary = distribution(CASE.package).locate_file("text2tashkeel/models/rawi.vocab.json")
    numbers = json.loads(vocabulary.read_text("utf-8"))["char_to_idx"]
    for text in sentences(seed, count):
        bare = [c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn"]
        yield {"input": np.array([[numbers.get(c, 1) for c in bare]], np.int64)}


def calibration():
    return feeds(1, 24)


def evaluation():
    return feeds(2, 24)


def use(run: Run) -> list[int]:
    return [mark for feed in feeds(3, 40) for mark in run(feed)["output"][0].argmax(axis=1).tolist()]
