"""Draws a page that needs no other file: photographs, with what was expected of the model and what it says."""

from __future__ import annotations

import base64
import io
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, ImageOps

from cdk_inference.common import figures
from cdk_inference.common.escaping import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cdk_inference.local import Cloud, Outcome
    from cdk_inference.model.records.manifest import Manifest

_SIDE = 448  # pixels of an embedded photograph: two for each of the page
_ANSWERS = 3  # labels shown for each photograph
_SHORTEST = 0.05  # seconds of a step that is shown
_PATIENCE = 0.5  # seconds
_POLL = 0.05
_DURATION = re.compile(r"^REPORT .*?\tDuration: ([0-9.]+) ms")


@dataclass(frozen=True)
class Labelled:
    """A photograph, with what was expected and what came.

    Parameters
    ----------
    outcome
        The row of it, or its dead letter.
    accepted
        The labels that a person accepts.
    file
        The photograph.
    """

    outcome: Outcome
    accepted: Sequence[str]
    file: Path

    @property
    def fits(self) -> bool:
        """Whether the label is one that a person accepts."""
        return self.outcome.status == "SUCCEEDED" and self.outcome.label in self.accepted

    @property
    def expected(self) -> str:
        """The labels that a person accepts, in a sentence."""
        *others, last = self.accepted
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def answers(self) -> list[tuple[str, float]]:
        """The most probable labels with their scores."""
        top = (self.outcome.prediction or {}).get("top") or []
        return [(str(one["label"]), float(one["score"])) for one in top[:_ANSWERS]]

    @cached_property
    def picture(self) -> str:
        """The middle of the photograph, as a ``data:`` address; ``""`` if it cannot be decoded."""
        try:
            with Image.open(self.file) as image:
                image.draft("RGB", (_SIDE, _SIDE))  # a JPEG is decoded no larger than necessary
                square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (_SIDE, _SIDE))
        except OSError:
            return ""
        stream = io.BytesIO()
        square.save(stream, "JPEG", quality=82)
        return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Run:
    """A run of the demo.

    Parameters
    ----------
    photographs
        The photographs.
    manifest
        The model's manifest.
    card
        The model's card.
    steps
        Seconds of the steps of the demo.
    stages
        Milliseconds of the calls of each stage.
    """

    photographs: Sequence[Labelled]
    manifest: Manifest
    card: Path
    steps: Mapping[str, float]
    stages: Mapping[str, Sequence[float]]


def stage_times(cloud: Cloud) -> dict[str, list[float]]:
    """Return the milliseconds of each call of a stage, as Lambda reports them.

    The last call writes rows before it is reported. It gets a moment for that, and is left out if that is not enough.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        times: dict[str, list[float]] = {}
        for _, stage, message in cloud.logs():
            if found := _DURATION.match(message):
                times.setdefault(stage, []).append(float(found[1]))
        first, last = (len(times.get(stage, ())) for stage in ("Preprocess", "Postprocess"))
        if 0 < first <= last or time.monotonic() > end:
            return times
        time.sleep(_POLL)


def render(run: Run, file: Path) -> None:
    """Write the page; an older one is replaced.

    It loads nothing and runs no script. Names of files stay texts, whatever is in them.
    """
    text = _HTML.get_template("photographs.html.j2").render(
        run=run,
        precision=figures.precision_name({"kind": run.manifest.precision}),
        wrong=[one for one in run.photographs if not one.fits],
        tiles=list(_tiles(run)),
        steps=_bars({name: seconds for name, seconds in run.steps.items() if seconds >= _SHORTEST}, "s"),
        stages=_bars({stage: max(times) for stage, times in run.stages.items()}, "ms"),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text, "utf-8", newline="\n")
    partial.replace(file)


def _tiles(run: Run) -> Iterable[tuple[str, str, str]]:
    """Return the figures at the top: name, value, and what it compares with."""
    manifest, measured = run.manifest, run.manifest.measured
    fitting = sum(one.fits for one in run.photographs)
    yield "As expected", f"{fitting} of {len(run.photographs)}", "photographs"
    yield "Size", figures.size(manifest.size_bytes), f"float32 {figures.size(manifest.baseline_size_bytes)}"
    if measured is not None:
        was = f"float32 {figures.milliseconds(measured.float32_ms)}"
        yield "Latency", figures.milliseconds(measured.deployed_ms), was
    seconds = [one.outcome.seconds for one in run.photographs if one.outcome.seconds is not None]
    if seconds:
        yield "Upload to row", f"{max(seconds):.1f} s", "the slowest, from a cold start"


def _bars(times: Mapping[str, float], unit: str) -> list[tuple[str, str, float]]:
    """Return names, figures, and shares in [0, 1] of the longest."""
    longest = max(times.values(), default=0) or 1
    return [(name, f"{figures.figure(value)} {unit}", value / longest) for name, value in times.items()]


def _shown(value: object) -> object:
    """Clean a text that is about to be shown."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_HTML = Environment(
    # The style is that of the model card.
    loader=ChoiceLoader(
        [FileSystemLoader(Path(__file__).parent / "templates"), PackageLoader("cdk_inference.model.card")]
    ),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_HTML.filters.update(percent=figures.percent, whole=escape)
