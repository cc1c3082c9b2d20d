"""Texts that mean the same come out close to each other; what is not a text is rejected with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

# Two sentences about each of six subjects, in different words.
PAIRS = {
    "cat": ("A cat is asleep on the sofa.", "The kitten naps on the couch."),
    "bank": ("The central bank raised its interest rates.", "Borrowing money is getting more expensive."),
    "match": ("Our team won the football match.", "We beat them by two goals in soccer."),
    "rain": ("It is going to rain tomorrow.", "The forecast says to take an umbrella."),
    "crash": ("The program crashes when I open a file.", "Opening any document makes the application quit."),
    "bread": ("How do I bake a loaf of bread?", "Recipe for sourdough: flour, water, salt."),
}
LONG = "The committee discussed the budget of the city at length. " * 15_000


def embedding(pipeline: Watched, key: str) -> np.ndarray:
    """Return the vector of an object as a reader of the table gets it."""
    prediction = pipeline.row(key)["prediction"]
    vector = np.frombuffer(prediction["embedding"].value, "<f4").astype(np.float64)
    assert vector.shape == (prediction["dimensions"],) == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    return vector


def put(pipeline: Watched, texts: dict[str, str | bytes]) -> dict[str, str]:
    """Put texts into the inbox, and return what they end as."""
    for key, text in texts.items():
        pipeline.put(key, text.encode() if isinstance(text, str) else text)
    return pipeline.ends(texts)


def test_a_sentence_is_nearest_to_the_one_that_means_the_same(sentences: Watched) -> None:
    texts = {f"pairs/{name} {n}.txt": text for name, pair in PAIRS.items() for n, text in enumerate(pair)}
    assert put(sentences, texts) == dict.fromkeys(texts, "SUCCEEDED")
    vectors = np.array([embedding(sentences, key) for key in texts])
    similarity = vectors @ vectors.T - 2 * np.eye(len(texts))
    nearest = dict(zip(texts, np.array(list(texts))[similarity.argmax(1)], strict=True))
    assert nearest == {key: key.replace(*("01" if "0" in key else "10")) for key in texts}
    partners = [similarity[i, i + 1] for i in range(0, len(texts), 2)]
    assert min(partners) > 0.3
    assert np.median(similarity) < 0.1


def test_who_asks_learns_which_words_the_vector_depends_on(sentences: Watched) -> None:
    sentences.put("why.txt", b"The kitten naps on the couch.", explain="true")
    sentences.put("not asked.txt", b"The kitten naps on the couch.")
    assert sentences.ends(["why.txt", "not asked.txt"]) == {"why.txt": "SUCCEEDED", "not asked.txt": "SUCCEEDED"}
    said = sentences.row("why.txt")["explanation"]
    assert (said["method"], said["baseline"], said["score"]) == ("leave_one_out", "[MASK]", pytest.approx(1))
    weights = {each["token"]: float(each["weight"]) for each in said["tokens"]}
    assert list(weights) == ["the", "kitten", "nap", "##s", "on", "couch", "."]  # "the" comes twice
    assert max(weights, key=weights.__getitem__) == "kitten"
    assert "explanation" not in sentences.row("not asked.txt")


def test_spelling_counts_less_than_meaning(sentences: Watched) -> None:
    texts = {
        "shout.txt": "THE CAT SAT ON THE MAT!!!",
        "calm.txt": "the cat sat on the mat",
        "math.txt": "the map of math",
    }
    assert set(put(sentences, texts).values()) == {"SUCCEEDED"}
    shout, calm, other = (embedding(sentences, key) for key in texts)
    assert shout @ calm > 0.8 > calm @ other


def test_unusual_texts_are_embedded(sentences: Watched) -> None:
    texts: dict[str, str | bytes] = {
        "emoji.txt": "🎉🐈👩‍👩‍👧‍👦",
        "hebrew.txt": "הֶחָתוּל יָשֵׁן עַל הַסַּפָּה",
        "arabic.txt": "القط نائم على الأريكة",
        "chinese.txt": "猫在沙发上睡觉",
        "mark.txt": b"\xef\xbb\xbfA cat is asleep on the sofa.\r\n",
        "nul.txt": b"A cat\0 is asleep on the sofa.",
        "one letter.txt": "a",
        "one word.txt": "w" * 100_000,
        "special.txt": "[CLS] [SEP] [PAD] [MASK]",
        "code.txt": "{% $states.input %} ${AWS::Region} {{ '\"' }} </script>",
        "été/日本語.TXT": "The case of the suffix does not matter.",
    }
    assert put(sentences, texts) == dict.fromkeys(texts, "SUCCEEDED")
    assert embedding(sentences, "mark.txt") @ embedding(sentences, "nul.txt") > 0.98


def test_of_a_long_text_the_beginning_counts(sentences: Watched) -> None:
    texts = {"long.txt": LONG, "beginning.txt": LONG[:20_000], "else.txt": "Tulips need sun."}
    assert put(sentences, texts) == dict.fromkeys(texts, "SUCCEEDED")
    long, beginning, other = (embedding(sentences, key) for key in texts)
    assert long @ beginning > 0.99
    assert long @ other < 0.5


def test_what_is_no_text_is_rejected(sentences: Watched) -> None:
    hostile = {
        "empty.txt": (b"", "object is empty"),
        "blank.txt": (b" \r\n\t\xc2\xa0\n", "text is empty"),
        "invisible.txt": ("\u200b\u200d\u2060".encode(), "text is empty: it has nothing but characters"),
        "nothing.txt": (bytes(1000), "text is empty: it has nothing but characters"),
        "picture.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text in UTF-8: 'utf-8' codec can't decode byte 0x89"),
        "latin 1.txt": ("Fahrvergnügen".encode("latin-1"), "not text in UTF-8"),
        "utf 16.txt": ("A cat is asleep.".encode("utf-16"), "not text in UTF-8"),
        "half a letter.txt": ("Fahrvergnü".encode()[:-1], "not text in UTF-8"),
        "book.txt": (b"word " * 200_001, "object has 1,000,005 bytes, at most 1,000,000 are read"),
    }
    ends = put(
        sentences, {key: data for key, (data, _) in hostile.items()} | {"good.txt": "A good text among bad ones."}
    )
    assert ends == {**dict.fromkeys(hostile, "REJECTED"), "good.txt": "SUCCEEDED"}
    for key, (_, reason) in hostile.items():
        row = sentences.row(key)
        assert reason in row["reason"]
        assert "prediction" not in row
