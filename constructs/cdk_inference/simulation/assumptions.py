"""The assumptions of a simulation, where AWS documents nothing and this library has no measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero, check_at_least, check_choice, check_share

if TYPE_CHECKING:
    from random import Random

PROCESS_MS = 68
"""A fresh process of the EfficientNet-Lite0 handler until its first answer: the benchmark ``handler/lite0``."""


@check_props
@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """The figures that are not quotas. Replace them once you have measured your own.

    Parameters
    ----------
    max_batching_window
        Seconds for which the pipe waits for a batch to fill up; a setting of the trigger.
    event_ms
        From the upload to the message in the queue, by S3 and EventBridge. An assumption.
    step_ms
        That the workflow adds to each invocation. An assumption.
    cold_start_ms
        Until a new environment begins with its first invocation. The process takes 68 ms of it, which the benchmarks
        measured; that AWS takes 500 ms to make the environment is an assumption.
    idle_seconds
        For which Lambda keeps an environment without invocations. An assumption.
    distribution, spread
        The distribution of durations around their means: ``"lognormal"``, ``"exponential"`` or ``"constant"``. The
        spread is the standard deviation of the lognormal one, as a share of the mean. Both are assumptions.
    failures
        Share of the invocations that die, so that their objects go back to the queue.
    workflow_timeout, visibility_timeout
        Seconds after which a batch fails, and for which a message that failed stays hidden; settings of the pipeline.
    max_receive_count
        How often an object is tried before it is a dead letter; a setting of the trigger.
    prefixes
        Partitioned prefixes of the inbox.
    kms_per_object
        Operations of KMS for each object. The default counts one for its read, as without S3 Bucket Keys, and is an
        upper bound for the read.
    max_wait
        Seconds for which a batch waits for a GPU; a setting of the inference.
    """

    max_batching_window: float = 1
    event_ms: float = 500
    step_ms: float = 30
    cold_start_ms: float = PROCESS_MS + 500
    idle_seconds: float = 600
    distribution: str = "lognormal"
    spread: float = 0.3
    failures: float = 0
    workflow_timeout: float = 300
    visibility_timeout: float = 331
    max_receive_count: int = 10
    prefixes: int = 1
    kms_per_object: float = 1
    max_wait: float = 1200

    def __post_init__(self) -> None:
        check_at_least(
            0,
            max_batching_window=self.max_batching_window,
            event_ms=self.event_ms,
            step_ms=self.step_ms,
            cold_start_ms=self.cold_start_ms,
            idle_seconds=self.idle_seconds,
            spread=self.spread,
            kms_per_object=self.kms_per_object,
        )
        check_choice(("lognormal", "exponential", "constant"), distribution=self.distribution)
        check_share(failures=self.failures)
        check_above_zero(
            workflow_timeout=self.workflow_timeout,
            visibility_timeout=self.visibility_timeout,
            max_wait=self.max_wait,
        )
        check_at_least(1, max_receive_count=self.max_receive_count, prefixes=self.prefixes)

    def draw(self, random: Random, mean: float) -> float:
        """Return a duration at random, with a mean."""
        if self.distribution == "constant" or mean <= 0:
            return mean
        if self.distribution == "exponential":
            return random.expovariate(1 / mean)
        variance = math.log1p(self.spread**2)
        return random.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))
