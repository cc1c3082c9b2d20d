"""Draw the dashboard of a pipeline as it is synthesized: ``python docs/scripts/dashboard.py`` writes the picture.

Each widget is where CloudWatch puts it, with its title and its metrics. There are no curves, since there are no data.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk.assertions import Template

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "dashboard.svg"

_COLUMN, _ROW, _GAP = 40, 24, 6  # pixels
_COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#cf222e", "#8250df", "#57606a")
_WIDE = 7  # pixels of a character, at most
_FONT = "Helvetica,Arial,sans-serif"


def widgets() -> list[dict[str, Any]]:
    """Return the widgets of the reference model's pipeline, with a drift monitor."""
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=ROOT / "model_assets" / "efficientnet_lite" / "lite0.py")
    pipeline = InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))
    pipeline.add_drift_monitor()
    pipeline.add_dashboard()
    found = Template.from_stack(stack).find_resources("AWS::CloudWatch::Dashboard")
    (dashboard,) = found.values()
    parts = dashboard["Properties"]["DashboardBody"]["Fn::Join"][1]
    body: dict[str, Any] = json.loads("".join(part if isinstance(part, str) else "X" for part in parts))
    return list(body["widgets"])


def labels(widget: dict[str, Any]) -> list[str]:
    """Return what the legend of a widget names."""
    found = []
    for metric in widget["properties"].get("metrics", ()):
        last = metric[-1] if isinstance(metric[-1], dict) else {}
        if last.get("visible") is not False:
            found.append(str(last.get("label") or metric[1]))
    return found or ["a query of the functions' logs"]


def picture(drawn: list[dict[str, Any]]) -> str:
    """Return the widgets as SVG."""
    width = max(each["x"] + each["width"] for each in drawn) * _COLUMN
    height = max(each["y"] + each["height"] for each in drawn) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{_FONT}">',
        f'<rect width="{width}" height="{height}" fill="#f6f8fa"/>',
    ]
    for each in drawn:
        parts += _widget(each)
    return "\n".join([*parts, "</svg>", ""])


def _widget(widget: dict[str, Any]) -> list[str]:
    left, top = widget["x"] * _COLUMN + _GAP, widget["y"] * _ROW + _GAP
    width, height = widget["width"] * _COLUMN - 2 * _GAP, widget["height"] * _ROW - 2 * _GAP
    title = html.escape(widget["properties"]["title"])
    lines = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="4" fill="#ffffff" stroke="#d0d7de"/>',
        f'<text x="{left + 12}" y="{top + 24}" font-size="14" font-weight="bold" fill="#1f2328">{title}</text>',
        f'<path d="{_lines(widget, left + 12, top + 36, width - 24, height - 68)}" fill="none" stroke="#d0d7de"/>',
    ]
    for annotation in widget["properties"].get("annotations", {}).get("horizontal", ()):
        middle = top + height // 2
        lines += [
            f'<path d="M{left + 12} {middle}H{left + width - 12}" stroke="#cf222e" stroke-dasharray="6 4"/>',
            f'<text x="{left + 18}" y="{middle - 6}" font-size="11" fill="#cf222e">{annotation["label"]}</text>',
        ]
    place = left + 12
    for number, label in enumerate(labels(widget)):
        colour = _COLOURS[number % len(_COLOURS)]
        bottom = top + height - 12
        lines += [
            f'<rect x="{place}" y="{bottom - 9}" width="10" height="10" fill="{colour}"/>',
            f'<text x="{place + 15}" y="{bottom}" font-size="11" fill="#57606a">{html.escape(label)}</text>',
        ]
        place += 32 + _WIDE * len(label)
    return lines


def _lines(widget: dict[str, Any], left: int, top: int, width: int, height: int) -> str:
    """Return the lines of a table, or the axes of a graph."""
    if widget["properties"].get("view") == "table":
        return "".join(f"M{left} {top + each * height // 3}h{width}" for each in range(4))
    return f"M{left} {top}v{height}h{width}"


if __name__ == "__main__":
    PICTURE.write_text(picture(widgets()), encoding="utf-8")
