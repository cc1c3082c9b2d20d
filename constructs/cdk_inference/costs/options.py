"""The traffic of a pipeline, and the options for running it."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import (
    check_above_zero,
    check_at_least,
    check_between,
    check_choice,
    check_share,
)
from cdk_inference.costs.quantities import (
    GIB,
    HOUR,
    LEAST_MIB,
    MONTH_HOURS,
    MOST_MIB,
    NETWORK_ENDPOINTS,
    VCPU_MIB,
    Architecture,
    on_vcpus,
    plural,
)
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from cdk_inference.costs.prices import Prices
    from cdk_inference.model.records.manifest import Manifest

ItemKind: TypeAlias = Literal["objects", "messages", "records"]

MOST_IN_A_BATCH = 32
"""Most objects in a batch, as `S3Trigger` has it."""


@check_props
@dataclass(frozen=True, kw_only=True)
class Traffic:
    """How much is to be scored, and when.

    Parameters
    ----------
    items_per_month
        Objects.
    bursts_per_month, burst_hours
        How many bursts of equal size the objects come in, and over how many hours each is evenly spread. Default: one
        burst that lasts all month, which is steady traffic.
    batch_fill
        How full the batches are, as a share of the shape's ``batch_size``. Default: full.
    """

    items_per_month: float
    bursts_per_month: float = 1
    burst_hours: float = MONTH_HOURS
    batch_fill: float = 1

    def __post_init__(self) -> None:
        check_at_least(0, items_per_month=self.items_per_month)
        check_at_least(1, bursts_per_month=self.bursts_per_month)
        check_above_zero(burst_hours=self.burst_hours, batch_fill=self.batch_fill)
        check_share(batch_fill=self.batch_fill)
        hours = self.bursts_per_month * self.burst_hours
        if hours > MONTH_HOURS * (1 + 1e-9):
            raise PropError(
                f"bursts must fit into the {MONTH_HOURS} hours of a month, got {self.bursts_per_month:g} bursts of "
                f"{self.burst_hours:g} hours, which are {hours:g} hours"
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
            else f"in {plural(self.bursts_per_month, 'burst')} of {self.burst_hours:g} h"
        )
        return f"{self.items_per_month:,.0f} items a month, {when}"


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
        The architecture of the functions on a CPU.
    work_objects
        Tensors of a batch that are too large for the workflow's state, each put and got once for each model.
    row_kb
        Size of a row.
    express_mb
        Memory of an express execution, billed in steps of 64 MB.
    hand_over_transitions
        State transitions of the standard workflow that waits for a GPU, for each batch that goes well.
    fused
        Whether one function does all, with the memory of the option: one invocation a batch, no tensors on their way.
    direct
        Whether that function takes the messages itself, as that of a `DirectPipeline` does: no event, pipe or workflow.
    items_are
        The items of the trigger: ``"objects"`` of a bucket, which S3 tells of and which are read; ``"messages"`` of a
        queue; or ``"records"`` of a stream, which has no queue.
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
    direct: bool = False
    items_are: ItemKind = "objects"

    def __post_init__(self) -> None:
        check_choice(get_args(ItemKind), items_are=self.items_are)
        check_at_least(1, batch_size=self.batch_size, express_mb=self.express_mb)
        if self.batch_size > MOST_IN_A_BATCH:
            raise PropError(
                f"batch_size must be at most {MOST_IN_A_BATCH}, which is the most that a pipeline takes, got "
                f"{self.batch_size}"
            )
        check_at_least(
            0,
            preprocess_ms=self.preprocess_ms,
            postprocess_ms=self.postprocess_ms,
            work_objects=self.work_objects,
            row_kb=self.row_kb,
            hand_over_transitions=self.hand_over_transitions,
        )
        memory = {"preprocess_memory": self.preprocess_memory, "postprocess_memory": self.postprocess_memory}
        check_between(LEAST_MIB, MOST_MIB, "MiB", **memory)

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
        The latency of one item on one vCPU: `of` takes it from a model's manifest. Better: the mean duration of the
        deployed function divided by the items of a batch.
    memory_size
        MiB of the function. Less than one vCPU is proportionally slower; of more, ``parallel`` is the share of the
        work that they speed up.
    architecture
        The architecture of the function.
    parallel
        Share of the work that a second vCPU halves; an assumption, see above.
    quality
        Value of whatever metric the options are compared by, if known.
    explained, explanation_runs
        Share of the answers that are explained, and how often the model runs for each. A run takes as long as an item.
    """

    name: str
    _: KW_ONLY
    milliseconds: float | None = None
    memory_size: int = VCPU_MIB
    architecture: Architecture = "arm64"
    parallel: float = 0.9
    quality: float | None = None
    explained: float = 0
    explanation_runs: float = 0

    def __post_init__(self) -> None:
        if self.milliseconds is None:
            raise PropError(
                f"milliseconds of '{self.name}' must be known, got none in its manifest, since its precision is "
                "pinned; build it with precision 'auto', or pass milliseconds="
            )
        check_above_zero(milliseconds=self.milliseconds)
        check_between(LEAST_MIB, MOST_MIB, "MiB", memory_size=self.memory_size)
        check_share(parallel=self.parallel, explained=self.explained)
        check_at_least(0, explanation_runs=self.explanation_runs)

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
        return on_vcpus(self.milliseconds, self.memory_size, self.parallel)

    @property
    def gb_seconds(self) -> float:
        """GB-seconds of one item, without explanations."""
        return self.item_ms / 1000 * self.memory_size / GIB

    @property
    def explaining_ms(self) -> float:
        """Milliseconds of explanations for each item: of one that is explained, and the others."""
        return self.explained * self.explanation_runs * self.item_ms


@check_props
@dataclass(frozen=True)
class GpuOption:
    """Inference on a GPU that is paid by the hour while it runs.

    Parameters
    ----------
    name
        For people.
    milliseconds
        The latency of one item in a full batch, measured on such a card: nothing in the build can know it.
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
                f"milliseconds of '{self.name}' must be given, got none, and no build can measure a GPU; run "
                "benchmarks/gpu.py on such a card, and pass its milliseconds per item as milliseconds="
            )
        check_choice(("lambda", "sagemaker"), backend=self.backend)
        check_above_zero(milliseconds=self.milliseconds)
        check_at_least(
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
        return NETWORK_ENDPOINTS if self.backend == "lambda" else 0

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
            instances = max(self.always_on, math.ceil(items * self.item_ms / 1000 / HOUR / traffic.busy_hours - 1e-9))
            return instances * MONTH_HOURS, f"{instances} x {MONTH_HOURS} h"
        if not items or not batches:
            return 0.0, "none runs"
        # An instance waits between two batches unless they are so far apart that it stops and starts again.
        bursts = min(traffic.bursts_per_month, batches)
        busy = items * self.item_ms / 1000 / bursts
        pauses = (batches / bursts - 1) * (self.start_seconds + self.idle_seconds)
        span = max(busy, min(traffic.burst_hours * HOUR, pauses + busy))
        seconds = self.start_seconds + span + self.idle_seconds
        return (
            bursts * seconds / HOUR,
            f"{plural(bursts, 'burst')} x ({self.start_seconds:,.0f} s start + {span:,.0f} s + "
            f"{self.idle_seconds:,.0f} s idle), busy {busy:,.0f} s of each",
        )


@check_props
@dataclass(frozen=True)
class CascadeOption:
    """The first model scores all items, and the second those of which the first is unsure.

    Parameters
    ----------
    name
        For people.
    first
        The cheap model.
    then
        The good model.
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
        check_share(escalation=self.escalation)


@check_props
@dataclass(frozen=True)
class SplitOption:
    """Several ways through one pipeline, each of which takes a share of the items.

    Parameters
    ----------
    name
        For people.
    ways
        The ways with their shares, which must add up to 1.
    quality
        Value of whatever metric the options are compared by, if known.

    Raises
    ------
    PropError
        If a share is below 0 or above 1, or they do not add up to 1.
    """

    name: str
    _: KW_ONLY
    ways: tuple[tuple[float, CpuOption | GpuOption | CascadeOption], ...]
    quality: float | None = None

    def __post_init__(self) -> None:
        for share, option in self.ways:
            check_share(**{f"the share of '{option.name}'": share})
        total = math.fsum(share for share, _ in self.ways)
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise PropError(
                f"shares of '{self.name}' must add up to 1, got {total:g}; count each item for one way alone"
            )


Option = CpuOption | GpuOption | CascadeOption | SplitOption
