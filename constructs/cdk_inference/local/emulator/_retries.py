"""Tries again soon what failed, as often as in AWS: waiting as long as there would help nobody."""

from __future__ import annotations

import time
from typing import Any

from ministack.services import lambda_svc, sqs, stepfunctions


def install(seconds: float) -> None:
    """Let no retry wait longer than this.

    Parameters
    ----------
    seconds
        The longest wait before a state of a workflow is tried again. A function also gets messages that it failed on
        again after this at the latest. Pipes are not run here.
    """
    _shorten_waits_of_states(seconds)
    _shorten_visibility(seconds)


def _shorten_waits_of_states(seconds: float) -> None:
    found = stepfunctions._find_matching_retrier

    def find_matching_retrier(retriers: Any, error: Any, counts: dict[int, int]) -> Any:  # noqa: ANN401
        retrier, index = found(retriers, error, counts)
        if retrier is None:
            return retrier, index
        wait = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** counts.get(index, 0)
        return {**retrier, "IntervalSeconds": min(wait, seconds), "BackoffRate": 1.0}, index

    stepfunctions._find_matching_retrier = find_matching_retrier


def _shorten_visibility(seconds: float) -> None:
    run = lambda_svc._run_sqs_batch

    def run_sqs_batch(*given: Any) -> None:
        _, _, _, batch, url, _ = given
        handles = {message["receipt_handle"] for message in batch}
        run(*given)
        with sqs._queues_lock:
            for message in sqs._get_q(url)["messages"]:
                if message.get("receipt_handle") in handles:  # what was scored is gone
                    message["visible_at"] = min(message["visible_at"], time.time() + seconds)

    lambda_svc._run_sqs_batch = run_sqs_batch
