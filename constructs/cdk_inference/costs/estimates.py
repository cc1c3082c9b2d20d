"""Estimates what options cost, and chooses the cheapest.

Nothing in here knows the CDK: numbers go in, sums with their formulas come out, so that a person can check them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.costs.options import (
    CascadeOption,
    CpuOption,
    GpuOption,
    Option,
    PipelineShape,
    SplitOption,
    Traffic,
)
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import GIB, MILLION, MONTH_HOURS, amount, on_vcpus
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence


_SQS_BATCH = 10

_EXPRESS_CHUNK = 64


@dataclass(frozen=True)
class CostLine:
    """The cost of one service.

    Parameters
    ----------
    service
        The service that bills it.
    usd
        For a month.
    how
        The formula, with its numbers.
    """

    service: str
    usd: float
    how: str


@dataclass(frozen=True)
class Estimate:
    """The cost of one option with a month's traffic.

    Parameters
    ----------
    option
        The option that was estimated.
    traffic
        For which traffic.
    lines
        By service; they add up to ``usd_per_month``. Uploads, storage, logs and traces are not in it.
    seconds
        From a full batch's arrival to its rows, if everything is warm; and if the GPU must start first. In a cascade
        all items of a batch may go on to the second model.
    prices
        The prices of the estimate.
    """

    option: Option
    traffic: Traffic
    lines: tuple[CostLine, ...]
    seconds: tuple[float, float]
    prices: Prices = field(repr=False)

    @property
    def name(self) -> str:
        """The option's name."""
        return self.option.name

    @property
    def usd_per_month(self) -> float:
        """The sum."""
        return math.fsum(line.usd for line in self.lines)

    @property
    def usd_per_million(self) -> float | None:
        """The sum for a million items; None if there are none."""
        items = self.traffic.items_per_month
        return self.usd_per_month / items * MILLION if items else None

    def usd(self, service: str) -> float:
        """Return the monthly cost of one service; 0 if the estimate has no line for it."""
        return math.fsum(line.usd for line in self.lines if line.service == service)

    def explain(self) -> str:
        """Return a table of the lines with their formulas."""
        width = max(len(line.service) for line in self.lines)
        amounts = [f"{line.usd:,.2f}" for line in self.lines]
        total = f"{self.usd_per_month:,.2f}"
        right = max(map(len, [*amounts, total]))
        head = f"{self.name}: {self.traffic.describe()} ({self.prices.region}, {self.prices.as_of}, USD a month)"
        rows = [
            f"  {line.service:<{width}}  {amount:>{right}}  {line.how}"
            for line, amount in zip(self.lines, amounts, strict=True)
        ]
        per_million = self.usd_per_million
        tail = "" if per_million is None else f"  {per_million:,.2f} for a million items"
        return "\n".join([head, *rows, f"  {'sum':<{width}}  {total:>{right}}{tail}"])


def estimate(
    option: Option, traffic: Traffic, *, shape: PipelineShape | None = None, prices: Prices | None = None
) -> Estimate:
    """Estimate what a month of a pipeline costs.

    Free tiers, volume discounts, retries, cold starts and taxes are left out. So are costs that do not depend on the
    option: uploads, storage, logs, traces.

    Raises
    ------
    PropError
        If the table has no price of the option's instance type, or the shape is fused and the option cannot be.
    """
    shape = shape or PipelineShape()
    ways = option.ways if isinstance(option, SplitOption) else ((1.0, option),)
    on_cpu = all(isinstance(way, CpuOption) for _, way in ways)
    for name, one_function in {"fused": shape.fused, "direct": shape.direct}.items():
        if one_function and not on_cpu:
            raise PropError(
                f"shape must not be {name} for '{option.name}', which is not on the CPU alone, got {name}=True; "
                "estimate it with another shape"
            )
    bill = _Bill(traffic, shape, prices or Prices())
    bill.front()
    for share, way in ways:
        bill.way(way, share=share)
    return Estimate(option, traffic, tuple(bill.lines()), (bill.warm, bill.started), bill.prices)


class _Bill:
    """Adds up quantities of what is billed, service by service."""

    def __init__(self, traffic: Traffic, shape: PipelineShape, prices: Prices) -> None:
        self.prices = prices
        self.warm = self.started = 0.0
        self._traffic = traffic
        self._shape = shape
        self._items = traffic.items_per_month
        self._batches = shape.batches(traffic)
        self._mean = self._items / self._batches if self._batches else 1.0
        self._million: dict[str, tuple[float, float]] = {}
        self._fixed: list[CostLine] = []

    def lines(self) -> list[CostLine]:
        counted = [
            CostLine(service, count / MILLION * price, f"{amount(count)} x {price:g} per million")
            for service, (count, price) in self._million.items()
            if count
        ]
        return [*counted, *self._fixed] or [CostLine("nothing", 0.0, "no items")]

    def _count(self, service: str, count: float, price: float) -> None:
        self._million[service] = (self._million.get(service, (0.0, price))[0] + count, price)

    def front(self) -> None:
        """Add what brings the items into the workflow."""
        prices, items, batches = self.prices, self._items, self._batches
        if self._shape.items_are == "objects" and not self._shape.direct:
            self._count("EventBridge events", items, prices.eventbridge_events)
        if self._shape.items_are != "records":
            # A message is sent once; one call receives and one deletes up to ten.
            self._count("SQS requests", items * (1 + 2 / min(_SQS_BATCH, self._mean)), prices.sqs_requests)
        if not self._shape.direct:
            self._count("pipe requests", batches, prices.pipe_requests)
            self._count("express executions", batches, prices.express_requests)

    def way(self, option: CpuOption | GpuOption | CascadeOption, *, share: float) -> None:
        """Add a way that a share of the items takes; a batch is done when the slowest of its items is."""
        if isinstance(option, CascadeOption):
            # Every item is postprocessed by the route that answers it last: the row is written once.
            seconds = [
                self._model(option.first, share=share, written=True),
                self._model(option.then, share=share * option.escalation, written=False),
            ]
        else:
            seconds = [self._model(option, share=share, written=True)]
        warm = math.fsum(each for each, _ in seconds)
        self.warm = max(self.warm, warm)
        self.started = max(self.started, warm + max(start for _, start in seconds))

    def _model(self, option: CpuOption | GpuOption, *, share: float, written: bool) -> tuple[float, float]:
        """Add a model that scores a share of the items; return the seconds of a batch, and of a start before it."""
        prices, shape = self.prices, self._shape
        items = self._items * share
        # A batch goes to the model if any of its items does, each for itself.
        batches = self._batches * (-math.expm1(self._mean * math.log1p(-share)) if share < 1 else 1)
        # A fused function has one size, that of the option.
        fused = option if (shape.fused or shape.direct) and isinstance(option, CpuOption) else None
        before_mib = fused.memory_size if fused else shape.preprocess_memory
        after_mib = fused.memory_size if fused else shape.postprocess_memory
        before_ms, after_ms = on_vcpus(shape.preprocess_ms, before_mib), on_vcpus(shape.postprocess_ms, after_mib)
        before, inference, after = (items * ms / 1000 for ms in (before_ms, option.item_ms, after_ms))
        sagemaker = isinstance(option, GpuOption) and option.backend == "sagemaker"

        self._count("S3 GETs of objects", items if shape.items_are == "objects" else 0.0, prices.s3_gets)
        # SageMaker's input and output are objects.
        tensors = 0.0 if fused else batches * (shape.work_objects + (1 if sagemaker else 0))
        self._count("S3 PUTs of tensors", tensors, prices.s3_puts)
        self._count("S3 GETs of tensors", tensors, prices.s3_gets)
        rows = items if written else 0.0
        self._count("DynamoDB writes", rows * math.ceil(shape.row_kb), prices.dynamodb_writes)

        gb_seconds = before * before_mib / GIB + after * after_mib / GIB
        architecture = fused.architecture if fused else shape.architecture
        compute = f"GB-seconds of Lambda, {architecture}"
        self._count("Lambda requests", batches * (1 if fused else 3), prices.lambda_requests)
        self._count(compute, gb_seconds, prices.lambda_gb_second(architecture) * MILLION)
        express = before
        if isinstance(option, CpuOption):
            compute = f"GB-seconds of Lambda, {option.architecture}"
            self._count(compute, items * option.gb_seconds, prices.lambda_gb_second(option.architecture) * MILLION)
            explaining = items * option.explaining_ms / 1000
            self._count(
                f"GB-seconds of explanations, {option.architecture}",
                explaining * option.memory_size / GIB,
                prices.lambda_gb_second(option.architecture) * MILLION,
            )
            express += inference + explaining + after
        else:
            self._count("standard transitions", batches * shape.hand_over_transitions, prices.standard_transitions)
            if sagemaker:
                self._count("Lambda requests", batches, prices.lambda_requests)  # the callback
                # The token: a row of up to 2 KB, which is read once, and deleted for nothing when it expires.
                self._count("DynamoDB writes", batches * 2, prices.dynamodb_writes)
                self._count("DynamoDB reads", batches, prices.dynamodb_reads)
            self._gpu(option, items, batches)
        chunks = 0 if shape.direct else math.ceil(shape.express_mb / _EXPRESS_CHUNK)
        self._count("GB-seconds of express", express * chunks * _EXPRESS_CHUNK / GIB, prices.express_gb_seconds)
        if not share:
            return 0.0, 0.0
        start = option.start_seconds if isinstance(option, GpuOption) and not option.always_on else 0.0
        explaining_ms = option.explaining_ms if isinstance(option, CpuOption) else 0.0
        return shape.batch_size * (before_ms + option.item_ms + explaining_ms + after_ms) / 1000, start

    def _gpu(self, option: GpuOption, items: float, batches: float) -> None:
        hours, how = option.running_hours(items, batches, self._traffic)
        price = option.hour(self.prices)
        fee = f" with {self.prices.managed_fee:.0%} fee" if option.backend == "lambda" else ""
        self._fixed.append(
            CostLine(
                f"{option.instance_type} hours",
                hours * price,
                f"{amount(hours)} h x {price:,.4f}{fee} ({how})",
            )
        )
        for service, number, each in (
            ("endpoint hours", option.endpoint_zones, self.prices.endpoint_hours),
            ("NAT gateway hours", option.nat_gateways, self.prices.nat_gateway_hours),
        ):
            if number:
                how = f"{number} x {MONTH_HOURS} h x {each:,.3f}"
                self._fixed.append(CostLine(service, number * MONTH_HOURS * each, how))


@dataclass(frozen=True)
class Decision:
    """Which option was chosen, and why.

    Parameters
    ----------
    chosen
        The estimate of the cheapest option that meets the wishes.
    estimates
        All, in the order in which the options were given.
    refused
        By name of the option: why it was out.
    reason
        One sentence with the figures.
    """

    chosen: Estimate
    estimates: tuple[Estimate, ...]
    refused: dict[str, str]
    reason: str

    def explain(self) -> str:
        """Return the reason, what was out, and the tables of all options."""
        out = [f"{name} is out: {why}" for name, why in self.refused.items()]
        return "\n\n".join(["\n".join([self.reason, *out]), *(each.explain() for each in self.estimates)])


@check_arguments
@renamed_props(least_quality="min_quality", most_seconds="max_seconds")
def choose(
    options: Sequence[Option],
    traffic: Traffic,
    *,
    shape: PipelineShape | None = None,
    prices: Prices | None = None,
    min_quality: float | None = None,
    max_seconds: float | None = None,
) -> Decision:
    """Choose the cheapest option that meets the wishes; of equally cheap ones, the first.

    Parameters
    ----------
    options
        To choose from.
    traffic, shape, prices
        As in `estimate`.
    min_quality
        Options with a lower ``quality``, or an unknown one, are out.
    max_seconds
        Options that may take longer from a full batch's arrival to its rows are out; the start of a GPU counts.

    Raises
    ------
    PropError
        If no option is left, with the figures of all.
    """
    names = [option.name for option in options]
    if not names or len(set(names)) < len(names):
        raise PropError(f"options must be at least one, each with a unique name, got {names}")
    estimates = tuple(estimate(option, traffic, shape=shape, prices=prices) for option in options)
    refused: dict[str, str] = {}
    for each in estimates:
        quality, slowest = each.option.quality, each.seconds[1]
        if min_quality is not None and quality is None:
            refused[each.name] = f"its quality is not known, and {min_quality:g} is wanted"
        elif min_quality is not None and quality is not None and quality < min_quality:
            refused[each.name] = f"its quality is {quality:g}, and {min_quality:g} is wanted"
        elif max_seconds is not None and slowest > max_seconds:
            refused[each.name] = f"a batch may take {slowest:,.1f} s, and {max_seconds:g} s are wanted"
    left = [each for each in estimates if each.name not in refused]
    if not left:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise PropError(
            f"options must include one that meets the wishes, got none ({why}); lower them, or add an option"
        )
    chosen = min(left, key=lambda each: each.usd_per_month)
    others = ", ".join(f"{each.name} {each.usd_per_month:,.2f}" for each in left if each is not chosen)
    reason = f"{chosen.name} is cheapest: {chosen.usd_per_month:,.2f} USD a month for {traffic.describe()}"
    return Decision(chosen, estimates, refused, reason + (f" (instead of {others})" if others else ""))
