"""Objects on their way through SageMaker: refused, killed, answered twice, late, wrongly or never. None gets lost."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.sagemaker.fake import FATAL, POISON
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched
    from tests.e2e.sagemaker.fake import FakeSageMaker

pytestmark = pytest.mark.e2e

_numbers = itertools.count(1000)


@pytest.fixture(autouse=True)
def calm(in_vain: dict[str, float], sagemaker: FakeSageMaker) -> Iterator[None]:
    """Begin with a SageMaker that answers, and end with one that has nothing left to do."""
    sagemaker.finish()  # of what a test before has left, say because it failed
    sagemaker.orders.clear()
    sagemaker.requests.clear()
    sagemaker.announced.clear()
    sagemaker.refused = 0
    yield
    assert not sagemaker.orders, "nobody asked so often"


def put(numbers: Watched, *values: float) -> dict[str, float]:
    """Put objects with these numbers, and return the numbers by key."""
    put = {f"{next(_numbers)}": value for value in values}
    for key, value in put.items():
        numbers.put(key, str(value).encode())
    return put


def ends(numbers: Watched, objects: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Wait until each object has a row and none of its events is left, and return the rows.

    Fails if an object has more than one row, or is in the dead-letter queue although it succeeded.
    """
    wait_until(
        lambda: len(numbers.rows(*objects)) >= len(objects) and not numbers.queued(objects),
        lambda: f"{len(numbers.rows(*objects))} of {len(objects)} rows",
        every=0.5,
    )
    rows = numbers.rows(*objects)
    assert [count for count in Counter(row["key"] for row in rows).values() if count > 1] == []
    dead = [key for key in numbers.dead() if key in objects]
    assert sorted(dead) == sorted(row["key"] for row in rows if row["status"] == "FAILED")
    return {row["key"]: row for row in rows}


def all_right(numbers: Watched, objects: dict[str, float]) -> None:
    rows = ends(numbers, objects)
    assert [row for row in rows.values() if row["status"] != "SUCCEEDED"] == []
    assert {key: row["prediction"]["sum"] for key, row in rows.items()} == {k: 2 * v for k, v in objects.items()}
    assert {row["inference"] for row in rows.values()} == {"cpu"}


def test_a_batch_is_scored_by_the_containers_server(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    all_right(numbers, put(numbers, *range(1, 9)))
    tensors = [group["inputs"]["numbers"] for request in sagemaker.requests for group in request["groups"]]
    assert any("key" in tensor for tensor in tensors), "large tensors travel through the work bucket"


def test_what_is_refused_for_a_while_is_asked_again(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sagemaker.orders.extend(["not found", "throttle", "unavailable", "not found"])
    all_right(numbers, put(numbers, 1, 2, 3))
    assert sagemaker.refused == 4
    (request,) = sagemaker.requests[:1]
    assert len(request["only"]) == len(request["groups"][0]["indices"]), "no reason to split the batch"


def test_only_the_object_that_kills_the_container_fails(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    objects = put(numbers, 1, 2, 3, POISON, 5, 6, 7, 8)
    rows = ends(numbers, objects)
    (poison,) = [key for key, value in objects.items() if value == POISON]
    assert {key for key, row in rows.items() if row["status"] == "FAILED"} == {poison}
    assert "error (0) from model" in rows[poison]["reason"]
    assert all(row["prediction"]["sum"] == 2 * objects[key] for key, row in rows.items() if key != poison)


def test_a_row_says_which_part_of_it_the_model_answered_by(numbers: Watched) -> None:
    numbers.put("asks", b"2@27", explain="true")
    numbers.put("does not", b"2@27")
    assert set(numbers.ends(["asks", "does not"]).values()) == {"SUCCEEDED"}
    assert "explanation" not in numbers.row("does not")
    said = numbers.row("asks")["explanation"]
    assert (said.get("method"), said.get("reason")) == ("occlusion", None)
    grid = np.array(said["grid"], float)
    assert grid.argmax() == 27
    assert np.delete(grid.ravel(), 27).max() < 0.1  # a hundredth of the power each
    bucket, _, key = said["heat_map"].removeprefix("s3://").partition("/")
    drawn = numbers.cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert Image.open(io.BytesIO(drawn)).size == (128, 64)


def test_an_explanation_that_kills_the_container_costs_no_answer(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    numbers.put("fatal", str(FATAL).encode(), explain="true")
    numbers.put("next to it", b"5", explain="true")
    assert set(numbers.ends(["fatal", "next to it"]).values()) == {"SUCCEEDED"}
    row = numbers.row("fatal")
    assert (row["prediction"], "explanation" in row) == ({"sum": 2 * FATAL}, False)
    asked = [[group["explain"] for group in request["groups"]] for request in sagemaker.requests]
    assert asked[0] != asked[-1] == [[]]


def test_the_second_answer_changes_nothing(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sagemaker.orders.append("twice")
    all_right(numbers, put(numbers, 1, 2, 3))
    sagemaker.finish()  # the rows may be there before the second answer
    assert len(sagemaker.announced) == len(sagemaker.requests) + 1


def test_an_answer_after_the_timeout_changes_nothing(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sagemaker.orders.append("late")
    objects = put(numbers, 1, 2, 3)
    all_right(numbers, objects)
    asked = len(sagemaker.requests)
    assert asked >= 2  # once more, after the timeout
    wait_until(lambda: len(sagemaker.announced) >= asked)
    all_right(numbers, objects)


def test_a_request_that_is_never_answered_is_made_again(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sagemaker.orders.append("never")
    all_right(numbers, put(numbers, 1, 2, 3))
    sagemaker.finish()
    assert len(sagemaker.announced) == len(sagemaker.requests) - 1


@pytest.mark.parametrize("order", ["expire", "break", "busy", "lose"])
def test_a_failure_that_no_object_caused_is_tried_again_with_all(
    numbers: Watched, sagemaker: FakeSageMaker, order: str
) -> None:
    sagemaker.orders.append(order)
    objects = put(numbers, 1, 2, 3)
    all_right(numbers, objects)
    asked = [sorted(request.get("only") or ()) for request in sagemaker.requests]
    assert asked.count(asked[0]) >= 2, "the same objects again"


def test_a_truncated_answer_makes_the_batch_smaller(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sagemaker.orders.append("truncate")
    all_right(numbers, put(numbers, 1, 2, 3, 4))


def test_messages_of_others_do_no_harm(numbers: Watched, sagemaker: FakeSageMaker) -> None:
    sns = numbers.cloud.client("sns")
    topics = [topic["TopicArn"] for topic in sns.list_topics()["Topics"]]
    foreign = {"inferenceId": "of-somebody-else", "invocationStatus": "Completed"}
    foreign["responseParameters"] = {"outputLocation": "s3://somewhere/else"}
    for topic in topics:
        for message in ("hello", "{}", json.dumps(foreign)):
            sns.publish(TopicArn=topic, Message=message)
    all_right(numbers, put(numbers, 1, 2, 3))


def test_what_waits_in_vain_fails_with_the_reason_and_is_kept(
    numbers: Watched, sagemaker: FakeSageMaker, in_vain: dict[str, float]
) -> None:
    rows = ends(numbers, in_vain)
    for row in rows.values():
        assert row["status"] == "FAILED"
        assert "no answer within 1 min of the hand-over" in row["reason"]
        assert "Endpoint numbers-1 of account 000000000000 not found" in row["reason"]
    assert sagemaker.refused_in_vain > 5
