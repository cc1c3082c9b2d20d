"""Draw the state machines of an app, or of a synthesized template.

``python docs/scripts/state_machine.py app.py docs/images/workflow`` writes ``workflow.dot`` and lets Graphviz make
``docs/images/workflow.svg`` of it; further state machines become ``docs/images/workflow-2.dot`` and so on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FONT = "Helvetica,Arial,sans-serif"
_INK, _PALE, _FAINT, _PANEL = "#1f2328", "#57606a", "#818b98", "#f6f8fa"
_STARTS, _STARTS_FILLING = "#8250df", "#fbefff"
# By type: shape, line and filling of a state that a batch passes when nothing is wrong.
_STATES = {
    "Task": ("box", "#0969da", "#ddf4ff"),
    "Choice": ("hexagon", "#bc4c00", "#fff1e5"),
    "Pass": ("box", "#57606a", "#ffffff"),
    "Wait": ("octagon", "#8250df", "#fbefff"),
    "Succeed": ("box", "#1a7f37", "#dafbe1"),
    "Fail": ("box", "#cf222e", "#ffebe9"),
}
_KINDS = {"EXPRESS": "express workflow", "STANDARD": "standard workflow"}
# Labels for the conditions of the library's state machines; others are shown as they are.
_PHRASES = (
    (r"^count\((\w+)\) = 0$", r"no \1"),
    (r"^count\((\w+)\) > 0$", r"some \1"),
    (r"^count\((\w+)\) > 1$", r"more than one in \1"),
    (r"^toMillis\(\S+EnteredTime\) - toMillis\(\S+StartTime\) > (\d+)000$", r"after \1 s"),
    (r"^toMillis\(\S+EnteredTime\) - toMillis\(\S+StartTime\) < (\d+)000$", r"within \1 s"),
    (r"^tries < (\d+)$", r"fewer than \1 tries"),
)
_LABEL = 20
_LONGEST = 44
_FEW = 3
"""Catches for the same errors by the same state are drawn one by one up to this number."""


@dataclass(frozen=True)
class Node:
    """A state as it is drawn.

    Parameters
    ----------
    kind
        Its type.
    of
        The Map or Parallel that contains it, and how; empty for others.
    follows
        The states that may follow, and when.
    catches
        Which errors lead where.
    """

    kind: str
    of: str
    follows: tuple[tuple[str, str], ...]
    catches: tuple[tuple[str, str], ...]


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


def graphs(template: Mapping[str, Any]) -> list[str]:
    """Return the state machines of a template in the language of Graphviz; those that others start come last."""
    found = machines(template)
    started = {other for _, definition in found.values() for other in _started(definition, found).values()}
    return [_graph(machine, found) for machine in sorted(found, key=lambda machine: machine in started)]


def _graph(machine: str, found: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    kind, definition = found[machine]
    nodes = dict(_nodes(definition))
    calm = _calm(_entry(definition), nodes)
    # The order in which a batch passes them: Graphviz then takes the way back for the way back.
    order = [*calm, *(name for name in nodes if name not in calm)]
    common = _common(nodes)
    drawn = [_node(name, nodes[name], calm=name in calm) for name in order]
    edges = [_edge(".start", order[0], "", pale=False)]
    for name in order:
        for target, when in nodes[name].follows:
            edges.append(_edge(name, target, when, pale=not {name, target} <= calm.keys()))
        alone = [caught for caught in nodes[name].catches if caught not in common]
        edges += [_edge(name, target, errors, pale=True, dashed=True) for errors, target in alone]
    for number, sources in enumerate(sorted(set(common.values()))):
        note = f".any {number}"
        stages = list(dict.fromkeys(source.rpartition(": ")[2] for source in sources))
        label = _wrapped(f"any {', '.join(stages[:-1])} or {stages[-1]}")
        drawn.append(_line(note, label=label, shape="plaintext", style="", fontcolor=_PALE, fontsize="10"))
        # Not drawn: they put it below its states.
        edges += [f"{_quoted(source)} -> {_quoted(note)} [style=invis]" for source in sources]
        for (errors, target), together in common.items():
            if together == sources:
                edges.append(_edge(note, target, errors, pale=True, dashed=True))
    for name, other in _started(definition, found).items():
        note = f"starts {other}"
        label = f"{_KINDS[found[other][0]]},\n{found[other][1].get('Comment', other)}"
        drawn.append(_line(note, label=label, shape="note", style="filled", color=_STARTS, fillcolor=_STARTS_FILLING))
        edges.append(_line(name, note, label="  starts  ", style="dotted", color=_STARTS))
    lines = [
        "digraph {",
        # It has a background, so that the page behind may be white or dark.
        f'  graph [bgcolor="white", fontname="{_FONT}", fontsize=13, fontcolor="{_INK}", '
        "nodesep=0.35, ranksep=0.4, pad=0.2]",
        f'  node [fontname="{_FONT}", fontsize=12, fontcolor="{_INK}", style="filled,rounded", height=0.4]',
        f'  edge [fontname="{_FONT}", fontsize=10, fontcolor="{_INK}", color="{_INK}", penwidth=1.8, arrowsize=0.8]',
        '  subgraph "cluster" {',
        f'    label="{_KINDS[kind]}"; labeljust=l; style="rounded,filled"; color="#d0d7de"; fillcolor="{_PANEL}"',
        f'    ".start" [label="", shape=circle, width=0.16, height=0.16, fillcolor="{_INK}"]',
        *(f"    {line}" for line in drawn),
        "  }",
        *(f"  {line}" for line in edges),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _nodes(definition: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the states by name; in the place of a Map or Parallel those that are in it."""
    states = definition["States"]

    def begin(target: str) -> str:
        inner = _inner(states[target])
        return _entry(inner[0]) if inner else target

    for name, state in states.items():
        follows = tuple((begin(target), when) for target, when in _follows(state))
        catches = tuple((_errors(catch["ErrorEquals"]), begin(catch["Next"])) for catch in state.get("Catch", ()))
        for part in _inner(state):
            how = f"{name}, for each" if state["Type"] == "Map" else f"{name}, at once"
            for inner, node in _nodes(part, how):
                ends = inner in part["States"] and part["States"][inner].get("End", False)
                yield inner, Node(node.kind, node.of, node.follows + (follows if ends else ()), node.catches + catches)
        if not _inner(state):
            yield name, Node(state["Type"], of, follows, catches)


def _follows(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "Next" in state:
        yield state["Next"], ""
    yield from ((rule["Next"], _condition(rule)) for rule in state.get("Choices", ()))
    if "Default" in state:
        yield state["Default"], "else"


def _inner(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [state["ItemProcessor"]] if state["Type"] == "Map" else list(state.get("Branches", ()))


def _entry(definition: Mapping[str, Any]) -> str:
    """Return the state in which a definition begins."""
    inner = _inner(definition["States"][definition["StartAt"]])
    return _entry(inner[0]) if inner else str(definition["StartAt"])


def _calm(entry: str, nodes: Mapping[str, Node]) -> dict[str, None]:
    """Return, in order, the states that a batch may pass before anything is caught."""
    caught = {target for node in nodes.values() for _, target in node.catches}
    reached: dict[str, None] = {}
    todo = [entry]
    while todo:
        name = todo.pop()
        if name not in reached and name not in caught:
            reached[name] = None
            todo += [target for target, _ in nodes[name].follows]  # the last one, the default, is next
    return reached


def _common(nodes: Mapping[str, Node]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the states of which many are caught for the same errors by the same state."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, node in nodes.items():
        for caught in node.catches:
            found.setdefault(caught, []).append(name)
    return {caught: tuple(sources) for caught, sources in found.items() if len(sources) > _FEW}


def _started(definition: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str]:
    """Return the state machines that a definition starts, by state."""
    started = {}
    for name, state in definition["States"].items():
        if state["Type"] == "Task" and ":states:startExecution" in state["Resource"]:
            arn = str(state.get("Arguments", {}).get("StateMachineArn", ""))
            for machine in found:
                if arn.startswith(f"${{{machine}}}"):
                    started[name] = machine
    return started


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
    services = [name.partition(".")[0] for name in names]
    shown = [
        f"{s}.*" if services.count(s) > 1 else name.rpartition(".")[2] for s, name in zip(services, names, strict=True)
    ]
    return ", ".join(dict.fromkeys(shown))


def _node(name: str, node: Node, *, calm: bool) -> str:
    shape, line, filling = _STATES[node.kind]
    label = _wrapped(f"{name} ({node.of})" if node.of else name)
    look = {"color": line, "fillcolor": filling, "penwidth": "1.8"}
    if not calm:
        look = {"color": _FAINT, "fillcolor": "white", "fontcolor": _PALE}
    if node.of:
        look["peripheries"] = "2"
    if shape == "hexagon":
        look |= {"style": "filled", "margin": "0.02,0.05"}
    return _line(name, label=label, shape=shape, **look)


def _edge(source: str, target: str, label: str, *, pale: bool, dashed: bool = False) -> str:
    # Graphviz puts labels close to their lines: the blanks keep them apart.
    look = {"label": "\n".join(f"  {line}  " for line in _wrapped(label).split("\n"))} if label else {}
    if dashed:
        look["style"] = "dashed"
    if pale:
        look |= {"color": _FAINT, "fontcolor": _PALE, "penwidth": "1.0"}
    else:
        look["weight"] = "8"  # straight, and short
    return _line(source, target, **look)


def _line(*names: str, **look: str) -> str:
    attributes = ", ".join(f"{name}={_quoted(value)}" for name, value in look.items())
    return f"{' -> '.join(map(_quoted, names))} [{attributes}]"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _LABEL, break_long_words=False))


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


def names(target: Path, count: int) -> list[Path]:
    """Return the names of the graphs, without suffix."""
    return [target, *(target.with_name(f"{target.name}-{number}") for number in range(2, count + 1))]


def main(source: Path, target: Path) -> None:
    """Write the graphs and their pictures."""
    template = synthesized(source) if source.suffix == ".py" else json.loads(source.read_text(encoding="utf-8"))
    drawn = graphs(template)
    for name, text in zip(names(target, len(drawn)), drawn, strict=True):
        graph, svg = name.with_suffix(".dot"), name.with_suffix(".svg")
        graph.write_text(text, encoding="utf-8")
        subprocess.run(["dot", "-Tsvg", "-o", svg, graph], check=True)  # noqa: S603, S607 (Graphviz)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
