"""How a new model takes over: one factory for each kind of release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.releases.strategy import AllAtOnce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration
    from aws_cdk import aws_cloudwatch as cloudwatch

    from cdk_inference.releases.abort_rules import AbortRule
    from cdk_inference.releases.canary import Canary
    from cdk_inference.releases.strategy import ReleaseStrategy
    from cdk_inference.routing.route import Route


@check_props
class Release:
    """How a new model takes over from the one that is deployed."""

    @classmethod
    def all_at_once(cls) -> ReleaseStrategy:
        """Replace the model with the deployment, as without a release."""
        return AllAtOnce()

    @classmethod
    def canary(
        cls,
        *,
        candidate: Route,
        stable: Route | None = None,
        steps: Sequence[float] = (5, 25, 100),
        bake_time: Duration | None = None,
        window: Duration | None = None,
        abort_on: Sequence[AbortRule | cloudwatch.IAlarm] | None = None,
        compared: float = 10,
        confidence: float = 0.99,
        min_samples: int = 20,
        salt: str = "",
    ) -> Canary:
        """Give a candidate a growing share of the objects, and take it back if the candidate is worse.

        Both models run side by side, each with its own functions. Rows say in ``variant`` whether the stable model or
        the candidate answered. The share is an item of a table: moving it is a write, and no deployment.

        Parameters
        ----------
        candidate
            The new model, with what comes before and after it.
        stable
            The model that answers now: with a `routing`, one of its routes. Default: the pipeline's `model`.
        steps
            The candidate's shares, in percent: each is larger than the one before, and the last is 100.
        bake_time
            How long each step lasts at least. Default: 30 minutes.
        window
            How often the release is judged. Default: 5 minutes.
        abort_on
            The reasons to end the release: alarms, and rules of `AbortOn`. Default: `AbortOn.errors`,
            `AbortOn.latency` and `AbortOn.disagreement`; with `Execution.fused` or a model on a GPU, the first.
        compared
            The percentage of the objects that both models answer, so that their answers and latencies are compared.
        confidence
            The rules together abort a candidate that meets them with at most the probability that is missing to 1,
            however often they look.
        min_samples
            Results that a rule needs to abort, and that the candidate needs in each step to go on.
        salt
            Give another one to release the same two models again, with other objects in the shares.

        Raises
        ------
        PropError
            The steps do not grow to 100, or a number or duration is out of range.
        """
        from cdk_inference.releases.canary import Canary  # noqa: PLC0415 - only for those who ask

        return Canary(
            candidate=candidate,
            stable=stable,
            steps=tuple(steps),
            bake_time=bake_time,
            window=window,
            abort_on=None if abort_on is None else tuple(abort_on),
            compared=compared,
            confidence=confidence,
            min_samples=min_samples,
            salt=salt,
        )

    @classmethod
    def shadow(
        cls,
        candidate: Route,
        share: float,
        *,
        stable: Route | None = None,
        window: Duration | None = None,
        abort_on: Sequence[AbortRule | cloudwatch.IAlarm] | None = None,
        confidence: float = 0.99,
        min_samples: int = 20,
        salt: str = "",
    ) -> Canary:
        """Let a candidate answer a share of the objects besides the stable model, and write no row.

        The answers are compared, and ``python -m cdk_inference.release status`` shows how. A rule that fires ends the
        comparison.

        Parameters
        ----------
        candidate, stable, window, abort_on, confidence, min_samples, salt
            As those of `canary`.
        share
            The percentage of the objects that both models answer.

        Raises
        ------
        PropError
            A number or duration is out of range.
        """
        from cdk_inference.releases.canary import Canary  # noqa: PLC0415 - only for those who ask

        return Canary(
            candidate=candidate,
            stable=stable,
            steps=(),
            bake_time=None,
            window=window,
            abort_on=None if abort_on is None else tuple(abort_on),
            compared=share,
            confidence=confidence,
            min_samples=min_samples,
            salt=salt,
        )
