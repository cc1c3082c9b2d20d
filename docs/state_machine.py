"""Draw the state machines of an app, or of a synthesized template.

``python docs/state_machine.py app.py docs/workflow`` writes ``docs/workflow.dot`` and lets Graphviz make
``docs/workflow.svg`` of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FONT = "Helvetica,Arial,sans-serif"
_INK, _FAINT, _PANEL = "#1f2328", "#818b98", "#f6f8fa"
# By type: shape, line and filling of a state that a batch passes when nothing is wrong.
_STATES = {
    "Task": ("box", "#0969da", "#ddf4ff"),
    "Choice": ("hexagon", "#bc4c00", "#fff1e5"),
    "Pass": ("box", "#57606a", "#ffffff"),
    "Wait": ("octagon", "#8250df", "#fbefff"),
    "Succeed": ("box", "#1a7f37", "#dafbe1"),
    "Fail": ("box", "#cf222e", "#ffebe9"),
}
# What the conditions of the library's state machines mean; others are shown as they are.
_PHRASES = (
    (r"^count\((\w+)\) = 0$", r"no \1"),
    (r"^count\((\w+)\) > 0$", r"some \1"),
    (r"^count\((\w+)\) > 1$", r"more than one in \1"),
    (r"^toMillis\(\S+EnteredTime\) - toMillis\(\S+StartTime\) > (\d+)000$", r"after \1 s"),
    (r"^tries < (\d+)$", r"fewer than \1 tries"),
)
_LABEL = 20
_LONGEST = 44


def machines(template: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return type and definition of a template's state machines by logical id; references read ``${LogicalId}``."""
    found = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::StepFunctions::StateMachine":
            properties = resource["Properties"]
            definition = json.loads(_joined(properties["DefinitionString"]))
            found[name] = (properties.get("StateMachineType", "STANDARD"), definition)
    return found


def _joined(value: object) -> str:
    if isinstance(value, str):
        return value
    assert isinstance(value, dict)  # noqa: S101 (an intrinsic function)
    ((function, argument),) = value.items()
    if function == "Fn::Join":
        separator, parts = argument
        return str(separator).join(_joined(part) for part in parts)
    return f"${{{argument if function == 'Ref' else '.'.join(argument)}}}"


def dot(template: Mapping[str, Any]) -> str:
    """Return the state machines of a template as a graph in the language of Graphviz."""
    found = machines(template)
    lines = [
        "digraph {",
        # A background of its own, so that the page behind may be white or dark.
        f'  graph [bgcolor="white", fontname="{_FONT}", fontsize=13, fontcolor="{_INK}", '
        "nodesep=0.35, ranksep=0.4, pad=0.2, newrank=true]",
        f'  node [fontname="{_FONT}", fontsize=12, fontcolor="{_INK}", style="filled,rounded", height=0.4]',
        f'  edge [fontname="{_FONT}", fontsize=10, fontcolor="{_INK}", color="{_INK}", penwidth=1.8, arrowsize=0.8]',
    ]
    for machine, (kind, definition) in found.items():
        drawing = _Drawing(machine)
        title = "express workflow" if kind == "EXPRESS" else "standard workflow"
        if len(found) > 1:
            title += f": {_readable(machine)}"
        lines += [
            f"  subgraph {_quoted('cluster ' + machine)} {{",
            f'    label="{title}"; labeljust=l; style="rounded,filled"; color="#d0d7de"; fillcolor="{_PANEL}"',
            f'    {drawing.id(".start")} [label="", shape=circle, width=0.16, height=0.16, fillcolor="{_INK}"]',
            *(f"    {line}" for line in drawing.states(definition)),
            f"    {drawing.id('.start')} -> {drawing.entry(definition)}",
            "  }",
        ]
        lines += [f"  {line}" for line in drawing.edges]
    for machine, (_, definition) in found.items():
        for name, started in _started(definition, found):
            target = _Drawing(started).entry(found[started][1])
            lines.append(
                f'  {_Drawing(machine).id(name)} -> {target} [label="starts", style=dotted, color="#8250df", '
                'fontcolor="#8250df"]'
            )
    return "\n".join([*lines, "}"]) + "\n"


class _Drawing:
    """Nodes and edges of one state machine."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.edges: list[str] = []

    def id(self, state: str) -> str:
        return _quoted(f"{self.machine}/{state}")

    def entry(self, definition: Mapping[str, Any]) -> str:
        """Return the node in which a definition begins."""
        name = definition["StartAt"]
        state = definition["States"][name]
        inner = _inner(state)
        return self.entry(inner[0]) if inner else self.id(name)

    def states(self, definition: Mapping[str, Any]) -> Iterator[str]:
        """Yield the nodes, and note the edges."""
        calm = _calm(definition)
        for name, state in definition["States"].items():
            inner = _inner(state)
            if inner:
                how = "for each" if state["Type"] == "Map" else "at once"
                yield f"subgraph {_quoted(f'cluster {self.machine}/{name}')} {{"
                yield f'  label={_quoted(f"{name} ({how})")}; style="rounded,dashed"; color="{_FAINT}"'
                for part in inner:
                    yield from (f"  {line}" for line in self.states(part))
                yield "}"
            else:
                yield self._node(name, state, name in calm)
        for name, state in definition["States"].items():
            self._outgoing(name, state, definition, calm)

    def _node(self, name: str, state: Mapping[str, Any], calm: bool) -> str:
        shape, line, filling = _STATES[state["Type"]]
        if not calm:
            line, filling = _FAINT, "white"
        attributes = {"label": _wrapped(name), "shape": shape, "color": line, "fillcolor": filling}
        if shape == "hexagon":
            attributes |= {"style": "filled", "margin": "0.02,0.05"}
        if calm:
            attributes["penwidth"] = "1.8"
        else:
            attributes["fontcolor"] = "#57606a"
        return f"{self.id(name)} [{_attributes(attributes)}]"

    def _outgoing(self, name: str, state: Mapping[str, Any], definition: Mapping[str, Any], calm: set[str]) -> None:
        def draw(target: str, label: str = "", *, caught: bool = False) -> None:
            attributes: dict[str, str] = {}
            if label:
                # Graphviz puts labels close to their lines: the blanks keep them apart.
                attributes["label"] = "\n".join(f"  {line}  " for line in _wrapped(label).split("\n"))
            if caught or not {name, target} <= calm:
                attributes |= {"color": _FAINT, "fontcolor": "#57606a", "penwidth": "1.0"}
            else:
                attributes["weight"] = "8"  # straight, and short
            if caught:
                attributes["style"] = "dashed"
            states = definition["States"]
            sources = [self.id(end) for part in _inner(states[name]) for end in _ends(part)] or [self.id(name)]
            into = _inner(states[target])
            aim = self.entry(into[0]) if into else self.id(target)
            for source in sources:
                self.edges.append(
                    f"{source} -> {aim} [{_attributes(attributes)}]" if attributes else f"{source} -> {aim}"
                )

        if "Next" in state:
            draw(state["Next"])
        for rule in state.get("Choices", ()):
            draw(rule["Next"], _condition(rule))
        if "Default" in state:
            draw(state["Default"], "else")
        for catch in state.get("Catch", ()):
            draw(catch["Next"], _errors(catch["ErrorEquals"]), caught=True)


def _inner(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [state["ItemProcessor"]] if state["Type"] == "Map" else list(state.get("Branches", ()))


def _ends(definition: Mapping[str, Any]) -> list[str]:
    return [name for name, state in definition["States"].items() if state.get("End")]


def _targets(state: Mapping[str, Any]) -> Iterator[str]:
    yield from (branch["Next"] for branch in (state, *state.get("Choices", ())) if "Next" in branch)
    if "Default" in state:
        yield state["Default"]


def _calm(definition: Mapping[str, Any]) -> set[str]:
    """Return the states that a batch may pass although nothing went wrong: those that no error leads to first."""
    states = definition["States"]
    caught = {catch["Next"] for state in states.values() for catch in state.get("Catch", ())}
    reached: set[str] = set()
    todo = [definition["StartAt"]]
    while todo:
        name = todo.pop()
        if name not in reached and name not in caught:
            reached.add(name)
            todo += _targets(states[name])
    return reached


def _started(definition: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, state in definition["States"].items():
        if state["Type"] == "Task" and ":states:startExecution" in state["Resource"]:
            arn = str(state.get("Arguments", {}).get("StateMachineArn", ""))
            yield from ((name, machine) for machine in found if arn.startswith(f"${{{machine}}}"))


def _condition(rule: Mapping[str, Any]) -> str:
    if "Comment" in rule:
        return str(rule["Comment"])
    text = re.sub(r"^\{%\s*|\s*%\}$|\$states\.(input\.)?|\$", "", str(rule["Condition"]))
    for pattern, phrase in _PHRASES:
        text = re.sub(pattern, phrase, text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _errors(names: list[str]) -> str:
    if names == ["States.ALL"]:
        return "any error"
    kinds = {re.sub(r"\..*", ".*", name) for name in names}
    return ", ".join(sorted(kinds)) if len(names) > len(kinds) else ", ".join(names)


def _readable(logical_id: str) -> str:
    """Return a logical id without its hash, in words."""
    words = re.findall(r"[A-Z][a-z0-9]*", re.sub(r"[0-9A-F]{8}$", "", logical_id))
    return " ".join(words).removesuffix(" State Machine").removesuffix(" Workflow")


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _LABEL, break_long_words=False))


def _attributes(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def synthesized(app: Path) -> dict[str, Any]:
    """Run an app as the CDK CLI does, without building anything, and return its template."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CDK_OUTDIR": folder, "CDK_CONTEXT_JSON": json.dumps({"aws:cdk:bundling-stacks": []})}
        subprocess.run([sys.executable, app], env=os.environ | environment, check=True)  # noqa: S603 (our own apps)
        (template,) = Path(folder).glob("*.template.json")
        found: dict[str, Any] = json.loads(template.read_text(encoding="utf-8"))
    return found


def main(source: Path, target: Path) -> None:
    """Write the graph and its picture."""
    template = synthesized(source) if source.suffix == ".py" else json.loads(source.read_text(encoding="utf-8"))
    graph = target.with_suffix(".dot")
    graph.write_text(dot(template), encoding="utf-8")
    svg = target.with_suffix(".svg")
    subprocess.run(["dot", "-Tsvg", "-o", svg, graph], check=True)  # noqa: S603, S607 (Graphviz)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
