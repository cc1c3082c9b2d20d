"""Writes what was measured into docs/model/public-models.md."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).parents[2] / "docs" / "model" / "public-models.md"

_CASES = "../../verify/models/cases"
_CASE = re.compile(r"^\| \[(\w+)\].*$", re.MULTILINE)
_HEADS = {
    "built": (
        "| Case | Kind | Model | Ships | MB | Speed | Agreement | of | Right | Build | Memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ),
    "refused": ("| Case | Kind | Model | Message |", "|---|---|---|---|"),
}
_TOOLS = ("onnxruntime", "torch")


def write(rows: Sequence[dict[str, Any]], page: Path = PAGE) -> None:
    """Write the lines of some cases into the tables of the page, and when and where the last was measured.

    Parameters
    ----------
    rows
        `verify.models.judge.Row` as JSON. Lines of other cases stay as they are.
    """
    text = page.read_text("utf-8")
    fresh = {row["name"]: _refused(row) if row["refusal"] else _built(row) for row in rows}
    refused = {row["name"] for row in rows if row["refusal"]}
    old = {name: {case: line for case, line in lines(text, name).items() if case not in fresh} for name in _HEADS}
    for name, head in _HEADS.items():
        new = {case: line for case, line in fresh.items() if (case in refused) == (name == "refused")}
        text = _replace(text, name, (*head, *sorted((old[name] | new).values(), key=_kind)))
    page.write_text(_replace(text, "measured", (_measured(rows),)), "utf-8")


def lines(text: str, name: str) -> dict[str, str]:
    """Return the lines of a table by case.

    Parameters
    ----------
    text
        The page.
    name
        ``"built"`` or ``"refused"``.
    """
    return {case[1]: case[0] for case in _CASE.finditer(_part(text, name)[0])}


def _replace(text: str, name: str, body: Sequence[str]) -> str:
    found = _part(text, name)
    return text.replace(found[0], found[1] + "\n".join((*body, "")))


def _part(text: str, name: str) -> re.Match[str]:
    found = re.search(rf"(<!-- {name} -->\n)(?:.+\n)*", text)
    if found is None:
        raise AssertionError(f"the page must have the comment '{name}', got none; write it where the lines belong")
    return found


def _kind(line: str) -> str:
    return line.split(" | ")[1]


def _measured(rows: Sequence[dict[str, Any]]) -> str:
    cpu = next((row["cpu"] for row in rows if row["cpu"]), platform.machine())
    when = datetime.datetime.now(datetime.UTC).date()
    tools = " and ".join(f"{name} {version(name)}" for name in _TOOLS)
    return f"Measured until {when} on {os.cpu_count()} cores ({cpu}), with {tools}."


def _built(row: dict[str, Any]) -> str:
    before, after = row["sizes"]
    return _line(
        _case(row),
        row["kind"],
        row["model"],
        row["precision"] or row["failure"],
        f"{after:.3g}" if row["precision"] == "float32" else f"{before:.3g} to {after:.3g}",
        f"{row['speedup']:.2f}" if row["speedup"] else "",
        f"{row['agreement']:.3f}",
        row["seen"],
        "{:.3f} and {:.3f}".format(*row["right"]) if row["right"] else "",
        f"{row['build_seconds']:.0f} s",
        f"{row['build_peak_mb']:.0f} MB",
    )


def _refused(row: dict[str, Any]) -> str:
    return _line(_case(row), row["kind"], row["model"], row["refusal"])


def _case(row: dict[str, Any]) -> str:
    return f"[{row['name']}]({_CASES}/{row['name']}.py)"


def _line(*cells: str) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
