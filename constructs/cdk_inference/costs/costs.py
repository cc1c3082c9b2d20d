"""Estimates what a pipeline costs by service, the cheapest of several ways to run it, and when to keep it running.

Nothing in here knows the CDK: numbers go in, sums with their formulas come out, so that a person can check them.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Literal

from cdk_inference.common.prop_types import check_props
from cdk_inference.costs.prices import Prices
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.records.manifest import Manifest

MONTH_HOURS = 730
"""Hours of a month, as AWS counts them in its examples."""

VCPU_MIB = 1769
"""Memory of a Lambda function that comes with one vCPU."""

_GIB = 1024
_MILLION = 1e6
_HOUR = 3600
_MOST_VCPUS = 6
_MOST_MIB = 10_240
_SQS_BATCH = 10
_EXPRESS_CHUNK = 64
_NETWORK_ENDPOINTS = 4
_LEAST_MANAGED_MIB = 2048
_MANAGED_VCPU_MIB = 2048

Architecture = Literal["arm64", "x86_64"]


@check_props
@dataclass(frozen=True, kw_only=True)
class Traffic:
    """How much is to be scored, and when.

    Parameters
    ----------
    items_per_month
        Objects.
    bursts_per_month, burst_hours
        The objects come in so many bursts of equal size, each spread evenly over so many hours. Default: one burst
        that lasts all month, which is steady traffic.
    batch_fill
        How full the batches are, as a share of the shape's ``batch_size``. Default: full.
    """

    items_per_month: float
    bursts_per_month: float = 1
    burst_hours: float = MONTH_HOURS
    batch_fill: float = 1

    def __post_init__(self) -> None:
        _at_least(0, items_per_month=self.items_per_month)
        _at_least(1, bursts_per_month=self.bursts_per_month)
        _more_than_nothing(burst_hours=self.burst_hours, batch_fill=self.batch_fill)
        _share(batch_fill=self.batch_fill)
        hours = self.bursts_per_month * self.burst_hours
        if hours > MONTH_HOURS * (1 + 1e-9):
            raise PropError(
                f"{self.bursts_per_month:g} bursts of {self.burst_hours:g} hours are {hours:g} hours; "
                f"a month has {MONTH_HOURS}"
            )

    @property
    def busy_hours(self) -> float:
        """Hours of the month in which objects come."""
        return self.bursts_per_month * self.burst_hours

    def describe(self) -> str:
        """Say it in words."""
        when = (
            "all month"
            if self.busy_hours >= MONTH_HOURS
            else f"in {_plural(self.bursts_per_month, 'burst')} of {self.burst_hours:g} h"
        )
        return f"{self.items_per_month:,.0f} items a month, {when}"


MOST_IN_A_BATCH = 32
"""Most objects in a batch, as `S3Trigger` has it."""


@check_props
@dataclass(frozen=True, kw_only=True)
class PipelineShape:
    """The shape that all ways to run a pipeline have in common.

    The durations and sizes are assumptions, not measurements: photographs of a few hundred KB. Once the pipeline runs,
    take those that Lambda reports.

    Parameters
    ----------
    batch_size
        Most objects in a batch, 1 to 32.
    preprocess_ms, postprocess_ms
        Duration for one object, on one vCPU.
    preprocess_memory, postprocess_memory
        MiB of the functions.
    architecture
        Of the functions on a CPU.
    work_objects
        Tensors of a batch that are too large for the workflow's state, each put and got once for each leg.
    row_kb
        Size of a row.
    express_mb
        Memory of an express execution, billed in steps of 64 MB.
    hand_over_transitions
        State transitions of the standard workflow that waits for a GPU, for each batch that goes well.
    fused
        Whether one function does all, with the memory of the option: one invocation a batch, no tensors on their way.
    """

    batch_size: int = 32
    preprocess_ms: float = 15
    postprocess_ms: float = 10
    preprocess_memory: int = VCPU_MIB
    postprocess_memory: int = 1024
    architecture: Architecture = "arm64"
    work_objects: float = 2
    row_kb: float = 2
    express_mb: int = 64
    hand_over_transitions: int = 5
    fused: bool = False

    def __post_init__(self) -> None:
        _at_least(1, batch_size=self.batch_size, express_mb=self.express_mb)
        if self.batch_size > MOST_IN_A_BATCH:
            raise PropError(
                f"batch_size must be at most {MOST_IN_A_BATCH}, which is the most that a pipeline takes, got "
                f"{self.batch_size}"
            )
        _at_least(
            0,
            preprocess_ms=self.preprocess_ms,
            postprocess_ms=self.postprocess_ms,
            work_objects=self.work_objects,
            row_kb=self.row_kb,
            hand_over_transitions=self.hand_over_transitions,
        )
        for name in ("preprocess_memory", "postprocess_memory"):
            _memory(name, getattr(self, name))

    def batches(self, traffic: Traffic) -> float:
        """Return how many batches a month's traffic makes: no batch reaches from one burst into the next."""
        items = traffic.items_per_month
        full = items / max(1.0, self.batch_size * traffic.batch_fill)
        return min(items, max(full, traffic.bursts_per_month))


@check_props
@dataclass(frozen=True)
class CpuOption:
    """Inference by a Lambda function on the CPU.

    Parameters
    ----------
    name
        For people, such as the model's name.
    milliseconds
        Of one item on one vCPU: `of` takes it from a model's manifest. Better: the mean duration of the deployed
        function divided by the items of a batch.
    memory_size
        MiB of the function. Less than one vCPU is proportionally slower; of more, ``parallel`` is the share of the
        work that they speed up.
    architecture
        Of the function.
    parallel
        Share of the work that a second vCPU halves; an assumption, see above.
    quality
        Value of whatever metric the options are compared by, if known.
    """

    name: str
    _: KW_ONLY
    milliseconds: float | None = None
    memory_size: int = VCPU_MIB
    architecture: Architecture = "arm64"
    parallel: float = 0.9
    quality: float | None = None

    def __post_init__(self) -> None:
        if self.milliseconds is None:
            raise PropError(
                f"the latency of '{self.name}' on a CPU is not known: its manifest has none, since its precision is "
                f"pinned; build it with precision 'auto', or pass milliseconds="
            )
        _more_than_nothing(milliseconds=self.milliseconds)
        _memory("memory_size", self.memory_size)
        _share(parallel=self.parallel)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        memory_size: int = VCPU_MIB,
        architecture: Architecture = "arm64",
        quality: float | None = None,
    ) -> CpuOption:
        """Take name and latency from a model's manifest: those of the machine that searched, not of Lambda."""
        measured = manifest.measured
        return cls(
            manifest.name,
            milliseconds=None if measured is None else measured.deployed_ms,
            memory_size=memory_size,
            architecture=architecture,
            quality=quality,
        )

    @property
    def item_ms(self) -> float:
        """Milliseconds of one item with this much memory."""
        assert self.milliseconds is not None  # noqa: S101 (see __post_init__)
        return _on_vcpus(self.milliseconds, self.memory_size, self.parallel)

    @property
    def gb_seconds(self) -> float:
        """GB-seconds of one item."""
        return self.item_ms / 1000 * self.memory_size / _GIB


@check_props
@dataclass(frozen=True)
class GpuOption:
    """Inference on a GPU that is paid by the hour while it runs.

    Parameters
    ----------
    name
        For people.
    milliseconds
        Of one item in a full batch, measured on such a card: nothing in the build can know it.
    backend
        ``"lambda"``, a function on Managed Instances, or ``"sagemaker"``, asynchronous inference.
    instance
        Instance type whose price counts: AWS picks one that has the accelerator memory, which for 24 GiB are those with
        an L4 or A10G. Default: ``g6.xlarge``, or ``ml.g6.xlarge``.
    always_on
        How many instances stay while there is nothing to do.
    start_seconds
        From the first request to the first result when none runs; paid. An assumption: AWS says several minutes.
    idle_seconds
        That an instance stays after the last item; paid. An assumption.
    endpoints, nat_gateways
        Interface endpoints (each counts once for each zone) and NAT gateways of the GPU's network, paid all month.
        Default: the 2 x 2 endpoints of `InferenceNetwork` for ``"lambda"``, and none for ``"sagemaker"``.
    quality
        Value of whatever metric the options are compared by, if known.
    """

    name: str
    _: KW_ONLY
    milliseconds: float | None = None
    backend: Literal["lambda", "sagemaker"] = "lambda"
    instance: str | None = None
    always_on: int = 0
    start_seconds: float = 300
    idle_seconds: float = 900
    endpoints: int | None = None
    nat_gateways: int = 0
    quality: float | None = None

    def __post_init__(self) -> None:
        if self.milliseconds is None:
            raise PropError(
                f"the latency of '{self.name}' on a GPU is not known, and no build can measure it: run "
                f"benchmarks/gpu.py on such a card, and pass its milliseconds per item as milliseconds="
            )
        if self.backend not in ("lambda", "sagemaker"):
            raise PropError(f"backend is '{self.backend}'; it must be lambda or sagemaker")
        _more_than_nothing(milliseconds=self.milliseconds)
        _at_least(
            0,
            always_on=self.always_on,
            start_seconds=self.start_seconds,
            idle_seconds=self.idle_seconds,
            endpoints=self.endpoint_zones,
            nat_gateways=self.nat_gateways,
        )

    @property
    def instance_type(self) -> str:
        """Instance type whose price counts."""
        if self.instance is not None:
            return self.instance
        return "g6.xlarge" if self.backend == "lambda" else "ml.g6.xlarge"

    @property
    def endpoint_zones(self) -> int:
        """Interface endpoints that are paid, each once for each zone."""
        if self.endpoints is not None:
            return self.endpoints
        return _NETWORK_ENDPOINTS if self.backend == "lambda" else 0

    @property
    def item_ms(self) -> float:
        """Milliseconds of one item."""
        assert self.milliseconds is not None  # noqa: S101 (see __post_init__)
        return self.milliseconds

    def hour(self, prices: Prices) -> float:
        """Return the price of an hour."""
        if self.backend == "lambda":
            return prices.managed_hour(self.instance_type)
        return prices.sagemaker_hour(self.instance_type)

    def running_hours(self, items: float, batches: float, traffic: Traffic) -> tuple[float, str]:
        """Return the instance hours of a month that are paid, and how they were found."""
        if self.always_on:
            instances = max(self.always_on, math.ceil(items * self.item_ms / 1000 / _HOUR / traffic.busy_hours - 1e-9))
            return instances * MONTH_HOURS, f"{instances} x {MONTH_HOURS} h"
        if not items or not batches:
            return 0.0, "none runs"
        # An instance waits between two batches unless they are so far apart that it stops and starts again.
        bursts = min(traffic.bursts_per_month, batches)
        busy = items * self.item_ms / 1000 / bursts
        pauses = (batches / bursts - 1) * (self.start_seconds + self.idle_seconds)
        span = max(busy, min(traffic.burst_hours * _HOUR, pauses + busy))
        seconds = self.start_seconds + span + self.idle_seconds
        return (
            bursts * seconds / _HOUR,
            f"{_plural(bursts, 'burst')} x ({self.start_seconds:,.0f} s start + {span:,.0f} s + "
            f"{self.idle_seconds:,.0f} s idle), busy {busy:,.0f} s of each",
        )


@check_props
@dataclass(frozen=True)
class CascadeOption:
    """The first leg scores all items, and the second those of which the first is unsure.

    Parameters
    ----------
    name
        For people.
    first
        The cheap leg.
    then
        The good leg.
    escalation
        Share of the items that go on to it: `Calibration` expects one.
    quality
        Value of whatever metric the options are compared by, if known.
    """

    name: str
    _: KW_ONLY
    first: CpuOption
    then: CpuOption | GpuOption
    escalation: float
    quality: float | None = None

    def __post_init__(self) -> None:
        _share(escalation=self.escalation)


Option = CpuOption | GpuOption | CascadeOption


@dataclass(frozen=True)
class CostLine:
    """The cost of one service.

    Parameters
    ----------
    service
        What is billed.
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
        What was estimated.
    traffic
        For which traffic.
    lines
        By service; they add up to ``usd_per_month``. Uploads, storage, logs and traces are not in it.
    seconds
        From a full batch's arrival to its rows, if everything is warm; and if the GPU must start first. In a cascade
        all items of a batch may go on to the second leg.
    prices
        What was charged.
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
        return self.usd_per_month / items * _MILLION if items else None

    def usd(self, service: str) -> float:
        """Return what one service costs in a month, 0 if there is no such line."""
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

    Free tiers, volume discounts, retries, cold starts and taxes are left out, and so is what does not depend on the
    option: uploads, storage, logs, traces.

    Raises
    ------
    PropError
        If the table has no price of the option's instance type, or the shape is fused and the option cannot be.
    """
    shape = shape or PipelineShape()
    if shape.fused and not isinstance(option, CpuOption):
        raise PropError(
            f"the shape is fused, and '{option.name}' is not on the CPU alone; estimate it with another shape"
        )
    bill = _Bill(traffic, shape, prices or Prices())
    bill.front()
    if isinstance(option, CascadeOption):
        bill.leg(option.first, share=1)
        bill.leg(option.then, share=option.escalation)
    else:
        bill.leg(option, share=1)
    return Estimate(option, traffic, tuple(bill.lines()), (bill.warm, bill.warm + bill.start), bill.prices)


class _Bill:
    """Adds up quantities of what is billed, service by service."""

    def __init__(self, traffic: Traffic, shape: PipelineShape, prices: Prices) -> None:
        self.prices = prices
        self.warm = self.start = 0.0
        self._traffic = traffic
        self._shape = shape
        self._items = traffic.items_per_month
        self._batches = shape.batches(traffic)
        self._mean = self._items / self._batches if self._batches else 1.0
        self._million: dict[str, tuple[float, float]] = {}
        self._fixed: list[CostLine] = []

    def lines(self) -> list[CostLine]:
        counted = [
            CostLine(service, count / _MILLION * price, f"{_amount(count)} x {price:g} per million")
            for service, (count, price) in self._million.items()
            if count
        ]
        return [*counted, *self._fixed] or [CostLine("nothing", 0.0, "no items")]

    def _count(self, service: str, count: float, price: float) -> None:
        self._million[service] = (self._million.get(service, (0.0, price))[0] + count, price)

    def front(self) -> None:
        """Add what brings the items into the workflow."""
        prices, items, batches = self.prices, self._items, self._batches
        self._count("EventBridge events", items, prices.eventbridge_events)
        # A message is sent once; one call receives and one deletes up to ten.
        self._count("SQS requests", items * (1 + 2 / min(_SQS_BATCH, self._mean)), prices.sqs_requests)
        self._count("pipe requests", batches, prices.pipe_requests)
        self._count("express executions", batches, prices.express_requests)

    def leg(self, option: CpuOption | GpuOption, *, share: float) -> None:
        """Add a leg that a share of the items takes."""
        prices, shape = self.prices, self._shape
        items = self._items * share
        # A batch takes the leg if any of its items does, each for itself.
        batches = self._batches * (-math.expm1(self._mean * math.log1p(-share)) if share < 1 else 1)
        # A fused function has one size, that of the option.
        fused = option if shape.fused and isinstance(option, CpuOption) else None
        before_mib = fused.memory_size if fused else shape.preprocess_memory
        after_mib = fused.memory_size if fused else shape.postprocess_memory
        before_ms, after_ms = _on_vcpus(shape.preprocess_ms, before_mib), _on_vcpus(shape.postprocess_ms, after_mib)
        before, inference, after = (items * ms / 1000 for ms in (before_ms, option.item_ms, after_ms))
        sagemaker = isinstance(option, GpuOption) and option.backend == "sagemaker"

        self._count("S3 GETs of objects", items, prices.s3_gets)
        # SageMaker's input and output are objects.
        tensors = 0.0 if fused else batches * (shape.work_objects + (1 if sagemaker else 0))
        self._count("S3 PUTs of tensors", tensors, prices.s3_puts)
        self._count("S3 GETs of tensors", tensors, prices.s3_gets)
        # Every item is postprocessed by the leg that answers it last: the row is written once.
        written = self._items if share == 1 else 0.0
        self._count("DynamoDB writes", written * math.ceil(shape.row_kb), prices.dynamodb_writes)

        gb_seconds = before * before_mib / _GIB + after * after_mib / _GIB
        architecture = fused.architecture if fused else shape.architecture
        compute = f"GB-seconds of Lambda, {architecture}"
        self._count("Lambda requests", batches * (1 if fused else 3), prices.lambda_requests)
        self._count(compute, gb_seconds, prices.lambda_gb_second(architecture) * _MILLION)
        express = before
        if isinstance(option, CpuOption):
            compute = f"GB-seconds of Lambda, {option.architecture}"
            self._count(compute, items * option.gb_seconds, prices.lambda_gb_second(option.architecture) * _MILLION)
            express += inference + after
        else:
            self._count("standard transitions", batches * shape.hand_over_transitions, prices.standard_transitions)
            if sagemaker:
                self._count("Lambda requests", batches, prices.lambda_requests)  # the callback
                # The token: a row of up to 2 KB, which is read once, and deleted for nothing when it expires.
                self._count("DynamoDB writes", batches * 2, prices.dynamodb_writes)
                self._count("DynamoDB reads", batches, prices.dynamodb_reads)
            self._gpu(option, items, batches)
        chunks = math.ceil(shape.express_mb / _EXPRESS_CHUNK)
        self._count("GB-seconds of express", express * chunks * _EXPRESS_CHUNK / _GIB, prices.express_gb_seconds)
        if share:
            self.warm += shape.batch_size * (before_ms + option.item_ms + after_ms) / 1000
            if isinstance(option, GpuOption) and not option.always_on:
                self.start = option.start_seconds

    def _gpu(self, option: GpuOption, items: float, batches: float) -> None:
        hours, how = option.running_hours(items, batches, self._traffic)
        price = option.hour(self.prices)
        fee = f" with {self.prices.managed_fee:.0%} fee" if option.backend == "lambda" else ""
        self._fixed.append(
            CostLine(
                f"{option.instance_type} hours",
                hours * price,
                f"{_amount(hours)} h x {price:,.4f}{fee} ({how})",
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


def choose(
    options: Sequence[Option],
    traffic: Traffic,
    *,
    shape: PipelineShape | None = None,
    prices: Prices | None = None,
    least_quality: float | None = None,
    most_seconds: float | None = None,
) -> Decision:
    """Choose the cheapest option that meets the wishes; of equally cheap ones, the first.

    Parameters
    ----------
    options
        To choose from.
    traffic, shape, prices
        As in `estimate`.
    least_quality
        Options with a lower ``quality``, or an unknown one, are out.
    most_seconds
        Options that may take longer from a full batch's arrival to its rows are out; the start of a GPU counts.

    Raises
    ------
    PropError
        If no option is left, with the figures of all.
    """
    names = [option.name for option in options]
    if not names or len(set(names)) < len(names):
        raise PropError(f"options are {names}; give at least one, each with a name of its own")
    estimates = tuple(estimate(option, traffic, shape=shape, prices=prices) for option in options)
    refused: dict[str, str] = {}
    for each in estimates:
        quality, slowest = each.option.quality, each.seconds[1]
        if least_quality is not None and quality is None:
            refused[each.name] = f"its quality is not known, and {least_quality:g} is wanted"
        elif least_quality is not None and quality is not None and quality < least_quality:
            refused[each.name] = f"its quality is {quality:g}, and {least_quality:g} is wanted"
        elif most_seconds is not None and slowest > most_seconds:
            refused[each.name] = f"a batch may take {slowest:,.1f} s, and {most_seconds:g} s are wanted"
    left = [each for each in estimates if each.name not in refused]
    if not left:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise PropError(f"no option meets the wishes ({why}); lower them, or add an option")
    chosen = min(left, key=lambda each: each.usd_per_month)
    others = ", ".join(f"{each.name} {each.usd_per_month:,.2f}" for each in left if each is not chosen)
    reason = f"{chosen.name} is cheapest: {chosen.usd_per_month:,.2f} USD a month for {traffic.describe()}"
    return Decision(chosen, estimates, refused, reason + (f" (instead of {others})" if others else ""))


@dataclass(frozen=True)
class AlwaysOnAdvice:
    """Capacity that is always on would cost less than paying for each call.

    Parameters
    ----------
    offer
        ``"provisioned concurrency"`` or ``"managed instances"``.
    units
        How many are kept.
    unit
        What: environments or instances, and of which size.
    memory_size, environments
        MiB of the function, and how many environments of it run on that.
    on_demand_usd, always_on_usd
        For a month of the inference function: as it is, and with the offer.
    break_even_items
        Items a month from which so many units are cheaper.
    items
        Items a month that are expected.
    """

    offer: str
    units: int
    unit: str
    memory_size: int
    environments: int
    on_demand_usd: float
    always_on_usd: float
    break_even_items: float
    items: float

    def message(self) -> str:
        """Return the advice as a sentence with its figures."""
        return (
            f"steady traffic makes always-on capacity cheaper: {self.items:,.0f} items a month cost "
            f"{self.on_demand_usd:,.2f} USD of inference on demand and {self.always_on_usd:,.2f} USD with {self.units} "
            f"{self.unit} ({self.offer}), which pay from {self.break_even_items:,.0f} items a month on"
        )


def always_on_advice(
    option: CpuOption,
    traffic: Traffic,
    *,
    prices: Prices | None = None,
    instance: str = "c8g.xlarge",
    instance_vcpus: int = 4,
    least_instances: int = 3,
    endpoints: int = _NETWORK_ENDPOINTS,
    most_busy: float = 0.7,
) -> AlwaysOnAdvice | None:
    """Say whether capacity that is always on would be cheaper for a function on the CPU, and which.

    Provisioned concurrency is compared as environments, and Managed Instances as vCPUs; both for the whole month, and
    as many as the traffic keeps busy while it comes. Costs that are alike, such as requests, are left out. On
    Managed Instances a function has at least 2,048 MiB, and a vCPU for each 2 GiB.

    Parameters
    ----------
    option
        The function.
    traffic
        What is expected.
    prices
        List prices.
    instance, instance_vcpus
        Type of the instances, and its vCPUs.
    least_instances
        AWS starts three for a capacity provider, in three zones.
    endpoints
        Interface endpoints of the instances' network, each once for each zone. Default: those of `InferenceNetwork`.
    most_busy
        Share of the capacity that may be busy on average; the rest is for peaks.

    Returns
    -------
    The cheaper offer; None if neither is cheaper than on demand.
    """
    _more_than_nothing(most_busy=most_busy)
    _share(most_busy=most_busy)
    _at_least(1, instance_vcpus=instance_vcpus, least_instances=least_instances)
    _at_least(0, endpoints=endpoints)
    prices = prices or Prices()
    items = traffic.items_per_month
    if not items:
        return None
    per_item = option.gb_seconds * prices.lambda_gb_second(option.architecture)
    a_millisecond = (
        items / 1000 / _HOUR / traffic.busy_hours / most_busy
    )  # environments that it keeps, while items come
    memory = option.memory_size / _GIB

    kept = max(1, math.ceil(a_millisecond * option.item_ms - 1e-9))
    provisioned_each = option.gb_seconds * prices.provisioned_duration_gb_second(option.architecture)
    provisioned_month = kept * memory * MONTH_HOURS * _HOUR * prices.provisioned_gb_second(option.architecture)

    managed_memory = max(option.memory_size, _LEAST_MANAGED_MIB)
    vcpus = managed_memory / _MANAGED_VCPU_MIB
    assert option.milliseconds is not None  # noqa: S101 (see CpuOption)
    needed = math.ceil(a_millisecond * _on_vcpus(option.milliseconds, vcpus * VCPU_MIB, option.parallel) - 1e-9)
    instances = max(least_instances, math.ceil(needed * vcpus / instance_vcpus - 1e-9))
    environments = max(needed, least_instances, math.floor(instances * instance_vcpus / vcpus))
    managed_month = MONTH_HOURS * (instances * prices.managed_hour(instance) + endpoints * prices.endpoint_hours)

    offers = [
        AlwaysOnAdvice(
            offer,
            units,
            unit,
            size,
            number,
            items * per_item,
            month + items * each,
            month / (per_item - each) if per_item > each else math.inf,
            items,
        )
        for offer, units, unit, size, number, month, each in (
            (
                "provisioned concurrency",
                kept,
                f"environments of {option.memory_size:,} MiB",
                option.memory_size,
                kept,
                provisioned_month,
                provisioned_each,
            ),
            (
                "managed instances",
                instances,
                f"instances of {instance} and their network",
                managed_memory,
                environments,
                managed_month,
                0.0,
            ),
        )
    ]
    best = min(offers, key=lambda each: each.always_on_usd)
    return best if best.always_on_usd < best.on_demand_usd else None


def _on_vcpus(milliseconds: float, memory_size: float, parallel: float = 0.9) -> float:
    """Return the time with that much memory: Amdahl's law above one vCPU, a share of it below."""
    vcpus = min(memory_size / VCPU_MIB, _MOST_VCPUS)
    if vcpus <= 1:
        return milliseconds / vcpus
    return milliseconds * (1 - parallel + parallel / vcpus)


def _plural(count: float, noun: str) -> str:
    return f"{_amount(count)} {noun}" if count == 1 else f"{_amount(count)} {noun}s"


def _amount(count: float) -> str:
    return f"{count:,.2f}" if count < 100 and count != int(count) else f"{count:,.0f}"  # noqa: PLR2004


def _memory(name: str, value: int) -> None:
    if not 128 <= value <= _MOST_MIB:  # noqa: PLR2004
        raise PropError(f"{name} is {value} MiB; Lambda takes 128 to {_MOST_MIB}")


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if not (value >= least and math.isfinite(value)):
            raise PropError(f"{name} is {value}; it must be at least {least:g}, and finite")


def _more_than_nothing(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise PropError(f"{name} is {value}; it must be more than 0, and finite")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise PropError(f"{name} is {value}; it is a share, between 0 and 1")
