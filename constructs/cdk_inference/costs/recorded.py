"""Facts in a template, by which a pipeline's costs can be estimated for any traffic without its app."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, PipelineShape, SplitOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    Way = CpuOption | GpuOption | CascadeOption

METADATA_KEY = "cdk-inference:costs"
"""Key in the metadata of a template, below which the path of each pipeline has what `RecordedCosts.to_json` returns."""

_KINDS: Mapping[str, type[CpuOption | GpuOption]] = {"cpu": CpuOption, "gpu": GpuOption}


@dataclass(frozen=True)
class RecordedCosts:
    """The shape of a pipeline, and its ways from queue to row.

    Parameters
    ----------
    shape
        The shape.
    ways
        By the name of the route: the option; None if its latency or its backend is not known.
    shares
        By the name of the route: the share of the items that takes it; None if that depends on the items.
    """

    shape: PipelineShape
    ways: Mapping[str, Way | None]
    shares: Mapping[str, float | None] = field(default_factory=dict)

    def mix(self) -> SplitOption | None:
        """Return all ways together, each with its share; None if an option or a share is not known."""
        ways = [
            (share, option)
            for name, option in self.ways.items()
            if option is not None and (share := self.shares.get(name)) is not None
        ]
        whole = len(ways) == len(self.ways) and math.isclose(math.fsum(share for share, _ in ways), 1, abs_tol=1e-6)
        return SplitOption("all routes", ways=tuple(ways)) if whole else None

    def to_json(self) -> str:
        """Serialize with sorted keys; what is as by default is left out, since people see it in `cdk diff`."""
        ways = {name: None if option is None else _written(option) for name, option in self.ways.items()}
        data = {"shape": _given(self.shape), "ways": ways, "shares": dict(self.shares)}
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RecordedCosts:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is something else, such as that of another version of this library.
        """
        try:
            data = json.loads(text)
            ways = {name: None if each is None else _option(each) for name, each in data["ways"].items()}
            return cls(PipelineShape(**data["shape"]), ways, dict(data.get("shares", {})))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"costs must be recorded by this version of cdk-inference, got {error!r}") from error


def _written(option: Way) -> dict[str, Any]:
    if isinstance(option, CascadeOption):
        data = {name: getattr(option, name) for name in ("name", "escalation", "quality")}
        return data | {"kind": "cascade", "first": _written(option.first), "then": _written(option.then)}
    kind = next(kind for kind, known in _KINDS.items() if isinstance(option, known))
    return {**_given(option), "kind": kind}


def _given(value: PipelineShape | CpuOption | GpuOption) -> dict[str, Any]:
    """Return the fields that are not as by default."""
    known = {each.name: getattr(value, each.name) for each in fields(value)}
    return {each.name: known[each.name] for each in fields(value) if known[each.name] != each.default}


def _option(data: Mapping[str, Any]) -> Way:
    values = {name: value for name, value in data.items() if name != "kind"}
    if data["kind"] == "cascade":
        return CascadeOption(**values | {"first": _option(data["first"]), "then": _option(data["then"])})
    return _KINDS[data["kind"]](**values)
