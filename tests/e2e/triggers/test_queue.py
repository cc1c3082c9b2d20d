"""Messages of a queue, from the sender to the row: each ends as one row or one dead letter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.triggers.messages import order

if TYPE_CHECKING:
    from cdk_inference.local import PipeRunner
    from tests.e2e.triggers.messages import Messages

pytestmark = pytest.mark.e2e


def test_each_message_ends_once(texts: Messages, pipes: PipeRunner) -> None:
    texts.leave_out_what_is_there()
    bodies = {
        "return [1, 2, 30, 40]": "SUCCEEDED",
        "return [1, 2]": "REJECTED",
        'dance\nto "this" \\ and ⚡': "REJECTED",
        "[1]": "REJECTED",
        "raise": None,
        "exit": None,
        "crash": None,
    }
    sent = dict(zip(texts.send(bodies), bodies, strict=True))
    more = texts.send("return [1, 2, 3, 4]" for _ in range(60))
    ends, dead = texts.settle(len(sent) + len(more))
    assert ends == {
        **{message: bodies[body] for message, body in sent.items() if bodies[body]},
        **dict.fromkeys(more, "SUCCEEDED"),
    }
    # as they were sent, so that they can be sent again
    assert sorted(dead) == sorted(body for body, end in bodies.items() if end is None)
    first, *_ = sent
    row = texts.row(first)
    assert row["prediction"]["sums"] == [3, 70]
    assert row["object"] == f"{texts.bucket}/{first}"
    assert row["size"] == len("return [1, 2, 30, 40]")
    assert pipes.refusals == []


def test_the_last_version_of_an_item_stays(orders: Messages, pipes: PipeRunner) -> None:
    letters = [order("a", version, a=version) for version in (2, 11, 1, 10, 11, 2)] + [order("b", "7", a=0.5)]
    malformed = [order("", 1), order("x", -1), order("x", "one"), '{"order": 7}', "no JSON"]
    orders.send([*letters, *malformed])
    ends, dead = orders.settle(2 + len(malformed))
    assert ends == {"a": "SUCCEEDED", "b": "SUCCEEDED"}
    assert orders.row("a")["prediction"]["sums"] == [13, 7]
    assert orders.row("a")["sequencer"].lstrip("0") == "11"
    assert orders.bucket == "sqs:orders"
    assert len(dead) == len(malformed)
    assert pipes.refusals == []


def test_an_encoder_and_a_decoder_answer_in_words(numbers: Messages, pipes: PipeRunner) -> None:
    empty = 10
    wanted = {
        (empty, empty, empty, empty, empty, 0): "zero",
        (empty, empty, empty, 9, 1, 3): "nine hundred thirteen",
        (9, 9, 9, 9, 9, 9): "nine hundred ninety nine thousand nine hundred ninety nine",
        (empty, 7, 0, 0, 1, 3): "seventy thousand thirteen",
    }
    bodies = [json.dumps({f"digit{place}": digit for place, digit in enumerate(digits)}) for digits in wanted]
    sent = dict(zip(numbers.send(bodies), wanted.values(), strict=True))
    ends, dead = numbers.settle(len(sent))
    assert (set(ends.values()), dead) == ({"SUCCEEDED"}, [])
    for message, words in sent.items():
        prediction = numbers.row(message)["prediction"]
        assert prediction["text"] == words
        assert -1 < prediction["score"] <= 0
    assert pipes.refusals == []
