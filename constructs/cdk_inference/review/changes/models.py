"""Compares the models of two apps: card against card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from cdk_inference.common.figures import ERROR_METRICS, metric_name, milliseconds, quality, size
from cdk_inference.common.json_values import listed, mapping

if TYPE_CHECKING:
    from cdk_inference.review.assembly import Assembly

_NOTABLE = 0.1  # a share by which a size or a latency has to grow before it is worse
_BY = " \N{MULTIPLICATION SIGN} "
_NOTHING = "\N{EN DASH}"
_VERSION = "Version"
_SHOWN_LABELS = 3


@dataclass(frozen=True)
class Figure:
    """One line of a comparison.

    Parameters
    ----------
    name
        The name of the measure.
    before, after
        Its values for people.
    worse
        Whether the new value is worse than the old one. A quality that is not known any more is worse too.
    quality
        Whether it is about how good the answers are.
    """

    name: str
    before: str
    after: str
    worse: bool = False
    quality: bool = False

    @property
    def changed(self) -> bool:
        """Whether both values are known and differ, or a quality is not known any more."""
        return self.worse or (self.before != self.after and _NOTHING not in (self.before, self.after))


@dataclass(frozen=True)
class ModelChange:
    """The models of one function, before and after.

    Parameters
    ----------
    stack, path
        The paths of the stack, and of the function that runs the model.
    name
        The name of the model.
    figures
        All lines.
    """

    stack: str
    path: str
    name: str
    figures: tuple[Figure, ...]

    @property
    def worse(self) -> tuple[Figure, ...]:
        """The lines that are worse than before."""
        return tuple(figure for figure in self.figures if figure.worse)

    @property
    def changed(self) -> bool:
        """Whether anything differs, or the model is new."""
        return any(figure.changed or (figure.name == _VERSION and figure.before == _NOTHING) for figure in self.figures)

    @property
    def replaced(self) -> str:
        """The versions, if there was another one; otherwise ``""``."""
        version = next(figure for figure in self.figures if figure.name == _VERSION)
        return f"{version.before} → {version.after}" if version.changed else ""


def compare(before: Assembly | None, after: Assembly) -> list[ModelChange]:
    """Return the models of the second app next to those of the first; without a first app, next to nothing."""
    old = dict(_models(before)) if before is not None else {}
    changes = []
    for key, new in _models(after):
        stack, path = key
        previous = old.get(key)
        labels = (_labels(before, key) if before is not None else None, _labels(after, key))
        changes.append(ModelChange(stack, path, str(new.get("name", "?")), tuple(_figures(previous, new, labels))))
    return changes


def alike(changes: Iterable[ModelChange]) -> list[list[ModelChange]]:
    """Return the models with those together of which the same is to be said, in the order of the first ones."""
    found: dict[tuple[Figure, ...], list[ModelChange]] = {}
    for each in changes:
        found.setdefault(each.figures, []).append(each)
    return list(found.values())


def _models(assembly: Assembly) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """Yield what is known of the model of each function: its facts, and what was measured of the same version."""
    for template in assembly.templates.values():
        for function in template.of_type("AWS::Lambda::Function"):
            facts = function.facts.get("model")
            if isinstance(facts, Mapping):
                measured = mapping(assembly.manifests.get(str(facts.get("model_version")))).get("measured")
                yield (template.path, function.path), {"measured": measured, **facts}


def _labels(assembly: Assembly, key: tuple[str, str]) -> tuple[str, ...] | None:
    """Return the labels of the function that follows a model's: that of the same route, or the same one."""
    stack, path = key
    if key in assembly.labels:
        return assembly.labels[key]
    route = path.rpartition("/Inference")[0]
    found = [labels for (of, where), labels in assembly.labels.items() if of == stack and where.startswith(f"{route}/")]
    return found[0] if route and len(found) == 1 else None


def _figures(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], labels: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
) -> Iterator[Figure]:
    for name, key in (("Model", "name"), (_VERSION, "model_version"), ("Precision", "precision")):
        yield Figure(name, _NOTHING if old is None else str(old.get(key, _NOTHING)), str(new.get(key, _NOTHING)))
    before = mapping(old)
    yield from _quality(mapping(before.get("metric")), mapping(new.get("metric")))
    then, now = mapping(before.get("measured")), mapping(new.get("measured"))
    yield _measure("Size", before.get("size_bytes"), new.get("size_bytes"), size, _grows)
    yield _measure("Latency", then.get("deployed_ms"), now.get("deployed_ms"), milliseconds, _grows)
    yield _measure("Peak memory", then.get("deployed_peak_mb"), now.get("deployed_peak_mb"), "{:.0f} MB".format, _grows)
    yield Figure("Inputs and outputs", _tensors(before) if old is not None else _NOTHING, _tensors(new))
    yield Figure("Labels", *_label_texts(*labels))


def _quality(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Figure]:
    name = str(new.get("name", old.get("name", "")))
    if not name:
        return
    # Values of another metric say nothing about this one.
    known = old if old.get("name") == name else {}
    show, worse = partial(quality, name), partial(_worse, name)
    if old.get("name") and not known:
        former = str(old["name"])
        yield _measure(_title(former), old.get("quantized"), None, partial(quality, former), quality=True)
    yield _measure(_title(name), known.get("quantized"), new.get("quantized"), show, worse, quality=True)
    yield _measure("Gate", known.get("gate"), new.get("gate"), show, worse, quality=True)
    yield _measure("Evaluation samples", known.get("samples"), new.get("samples"), "{:,.0f}".format)


def _title(metric: str) -> str:
    label = metric_name(metric)
    return label[:1].upper() + label[1:]


def _measure(
    name: str,
    before: object,
    after: object,
    show: Callable[[float], str],
    worse: Callable[[float, float], bool] = lambda _before, _after: False,
    *,
    quality: bool = False,
) -> Figure:
    old, new = _number(before), _number(after)
    then, now = (_NOTHING if each is None else show(each) for each in (old, new))
    poorer = old is not None and (quality if new is None else worse(old, new))
    # Nobody can look at a difference that is rounded away.
    return Figure(name, then, now, worse=poorer and then != now, quality=quality)


def _worse(name: str, before: float, after: float) -> bool:
    return after > before if name in ERROR_METRICS else after < before


def _grows(before: float, after: float) -> bool:
    return after > before * (1 + _NOTABLE)


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if isfinite(value) else None


def _tensors(facts: Mapping[str, Any]) -> str:
    return " → ".join(
        ", ".join(
            f"{mapping(each).get('name')} {mapping(each).get('dtype')} "
            f"[{_BY.join(map(str, listed(mapping(each).get('shape'))))}]"
            for each in listed(facts.get(side))
        )
        for side in ("inputs", "outputs")
    )


def _label_texts(before: tuple[str, ...] | None, after: tuple[str, ...] | None) -> tuple[str, str]:
    shown = [_NOTHING if each is None else f"{len(each):,}" for each in (before, after)]
    if before is not None and after is not None and before != after:
        gone = [each for each in before if each not in set(after)]
        new = [each for each in after if each not in set(before)]
        parts = [f"{verb} {_some(names)}" for verb, names in (("without", gone), ("with", new)) if names]
        shown[1] = f"{shown[1]} ({'; '.join(parts) or 'in another order'})"
    return shown[0], shown[1]


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN_LABELS
    return ", ".join(names[:_SHOWN_LABELS]) + (f" and {more:,} more" if more > 0 else "")
