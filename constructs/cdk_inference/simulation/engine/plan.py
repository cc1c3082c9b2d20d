"""The ways of objects through a pipeline: which functions and GPUs they pass, and what each does for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, Option, PipelineShape, SplitOption
from cdk_inference.costs.quantities import on_vcpus
from cdk_inference.errors import PropError
from cdk_inference.simulation.engine.batches import Lot, objects

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random


@dataclass(frozen=True)
class Step:
    """An invocation of a function, or a batch on a GPU.

    Parameters
    ----------
    name
        The name of the function or the GPU.
    item_ms
        Milliseconds for each object.
    gpu
        The option, if it is on a GPU.
    reads
        Whether it reads the objects.
    puts, gets
        Tensors of a batch that it puts into the work bucket, and gets from there.
    transitions
        State transitions of a standard workflow that the hand-over to a GPU takes.
    writes
        Write units of the row of each object that ends here.
    """

    name: str
    item_ms: float
    gpu: GpuOption | None = None
    reads: bool = False
    puts: float = 0
    gets: float = 0
    transitions: int = 0
    writes: float = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """A step of a leg, with its objects.

    Parameters
    ----------
    step
        The step.
    count
        How many objects it works on.
    ends
        The objects whose rows it writes.
    """

    step: Step
    count: int
    ends: tuple[Lot, ...] = ()


@dataclass(frozen=True)
class _Way:
    share: float
    steps: tuple[Step, ...]
    escalation: float = 0
    then: tuple[Step, ...] = ()


class Plan:
    """Sends the objects of a batch on their ways.

    Parameters
    ----------
    option
        The models, as the cost estimates take them.
    shape
        The shape of the pipeline.

    Raises
    ------
    PropError
        If the shape is fused or direct, and a model is not on the CPU alone.
    """

    def __init__(self, option: Option, shape: PipelineShape) -> None:
        self._shape = shape
        ways = option.ways if isinstance(option, SplitOption) else ((1.0, option),)
        if (shape.fused or shape.direct) and not all(isinstance(way, CpuOption) for _, way in ways):
            kind = "direct" if shape.direct else "fused"
            raise PropError(
                f"shape must not be {kind} for '{option.name}', which is not on the CPU alone, got {kind}=True; "
                "simulate it with another shape"
            )
        self._ways = [self._way(share, way) for share, way in ways if share > 0]

    @property
    def gpus(self) -> dict[str, GpuOption]:
        """The options on GPUs by name."""
        steps = [step for way in self._ways for step in (*way.steps, *way.then)]
        return {step.name: step.gpu for step in steps if step.gpu is not None}

    def legs(self, lots: Iterable[Lot], random: Random) -> list[list[Stop]]:
        """Return the stops of each way that objects of a batch take."""
        left, legs = list(lots), []
        share_left = 1.0
        for number, way in enumerate(self._ways):
            last = number == len(self._ways) - 1
            taken, left = (left, []) if last else _draw(left, way.share / share_left, random)
            share_left -= way.share
            if taken:
                legs.append(_stops(way, taken, random))
        return legs

    def _way(self, share: float, option: CpuOption | GpuOption | CascadeOption) -> _Way:
        if isinstance(option, CascadeOption):
            return _Way(share, self._steps(option.first), option.escalation, self._steps(option.then))
        return _Way(share, self._steps(option))

    def _steps(self, option: CpuOption | GpuOption) -> tuple[Step, ...]:
        shape, writes = self._shape, math.ceil(self._shape.row_kb)
        if isinstance(option, CpuOption) and (shape.fused or shape.direct):
            around = on_vcpus(shape.preprocess_ms + shape.postprocess_ms, option.memory_size)
            whole = Step(option.name, around + option.item_ms + option.explaining_ms, reads=True, writes=writes)
            return (whole,)
        tensors = shape.work_objects
        before = Step(
            f"{option.name}: preprocess",
            on_vcpus(shape.preprocess_ms, shape.preprocess_memory),
            reads=True,
            puts=tensors,
        )
        after = Step(
            f"{option.name}: postprocess", on_vcpus(shape.postprocess_ms, shape.postprocess_memory), writes=writes
        )
        if isinstance(option, CpuOption):
            model = Step(option.name, option.item_ms + option.explaining_ms, gets=tensors)
        else:
            model = Step(option.name, option.item_ms, gpu=option, gets=tensors, transitions=shape.hand_over_transitions)
        return (before, model, after)


def _stops(way: _Way, lots: list[Lot], random: Random) -> list[Stop]:
    unsure, sure = _draw(lots, way.escalation, random) if way.then else ([], lots)
    stops = [Stop(step, objects(lots)) for step in way.steps]
    stops[-1] = replace(stops[-1], ends=tuple(sure))
    if unsure:
        stops += [Stop(step, objects(unsure)) for step in way.then]
        stops[-1] = replace(stops[-1], ends=tuple(unsure))
    return stops


def _draw(lots: list[Lot], share: float, random: Random) -> tuple[list[Lot], list[Lot]]:
    """Return a random share of the objects, and the rest."""
    taken, left = [], []
    for lot in lots:
        count = sum(random.random() < share for _ in range(lot.count))
        one, other = lot.split(count)
        if one.count:
            taken.append(one)
        if other.count:
            left.append(other)
    return taken, left
