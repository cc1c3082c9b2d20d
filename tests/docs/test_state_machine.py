"""The pictures of state machines are drawn from what the apps synthesize."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from .pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

# What is drawn, by the name of the picture in docs/.
PICTURES = {"workflow": "app.py"}


@pytest.fixture(scope="module")
def state_machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("state_machine", ROOT / "docs" / "state_machine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graph(name: str) -> str:
    return (ROOT / "docs" / f"{name}.dot").read_text(encoding="utf-8")


def edges(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r'"(.+?)" -> "(.+?)"', text))


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_of_the_apps(name: str, state_machine: ModuleType) -> None:
    drawn = state_machine.dot(state_machine.synthesized(ROOT / PICTURES[name]))
    assert drawn == graph(name), f"run: python docs/state_machine.py {PICTURES[name]} docs/{name}"


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_of_the_graphs(name: str) -> None:
    """Graphviz's versions differ in their bytes, but not in what they draw."""
    svg = (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    titles = {html.unescape(title) for title in re.findall(r'class="edge">\s*<title>(.+?)</title>', svg)}
    assert titles == {f"{source}->{target}" for source, target in edges(graph(name))}
    shown = " ".join(html.unescape(text).strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", svg))
    for label in re.findall(r'label="([^"]+)"', graph(name)):
        for line in label.split("\\n"):
            assert line.strip() in shown


@pytest.mark.parametrize("name", PICTURES)
def test_graphviz_takes_the_graphs(name: str, tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    made = tmp_path / "picture.svg"
    done = subprocess.run(["dot", "-Tsvg", "-o", made], input=graph(name), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "</svg>" in made.read_text(encoding="utf-8")


def template(**definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "Resources": {
            name: {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {
                    "StateMachineType": "EXPRESS" if name == "Front" else "STANDARD",
                    "DefinitionString": {"Fn::Join": ["", [*_around(json.dumps(definition))]]},
                },
            }
            for name, definition in definitions.items()
        }
        | {"Queue": {"Type": "AWS::SQS::Queue"}}
    }


def _around(text: str) -> list[Any]:
    """Put a reference in the place of each ``<name>``, as CDK does."""
    parts = re.split(r"<(\w+)>", text)
    return [{"Ref": part} if place % 2 else part for place, part in enumerate(parts)]


def test_every_kind_of_edge(state_machine: ModuleType) -> None:
    front = {
        "StartAt": "Prepare",
        "States": {
            "Prepare": {
                "Type": "Task",
                "Resource": "lambda",
                "Next": "Slow?",
                "Catch": [{"ErrorEquals": ["Lambda.One", "Lambda.Two", "Mine"], "Next": "Wait"}],
            },
            "Slow?": {
                "Type": "Choice",
                "Choices": [
                    {"Condition": "{% $count($states.input.items) = 0 %}", "Next": "Done"},
                    {"Condition": "{% $a %}", "Comment": 'it is "slow"', "Next": "Hand over"},
                ],
                "Default": "Done",
            },
            "Hand over": {
                "Type": "Task",
                "Resource": "arn:${AWS::Partition}:states:::states:startExecution",
                "Arguments": {"StateMachineArn": "<Back>"},
                "Next": "Done",
            },
            "Wait": {"Type": "Wait", "Seconds": 1, "Next": "Prepare"},
            "Done": {"Type": "Succeed"},
        },
    }
    back = {
        "StartAt": "Bury all of them",
        "States": {
            "Bury all of them": {
                "Type": "Map",
                "Next": "Dead",
                "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Dead"}],
                "ItemProcessor": {"StartAt": "Bury", "States": {"Bury": {"Type": "Pass", "End": True}}},
            },
            "Dead": {"Type": "Fail"},
        },
    }
    drawn = state_machine.dot(template(Front=front, Back=back))
    assert edges(drawn) == {
        ("Front/.start", "Front/Prepare"),
        ("Front/Prepare", "Front/Slow?"),
        ("Front/Prepare", "Front/Wait"),
        ("Front/Wait", "Front/Prepare"),
        ("Front/Slow?", "Front/Done"),
        ("Front/Slow?", "Front/Hand over"),
        ("Front/Hand over", "Front/Done"),
        ("Front/Hand over", "Back/Bury"),
        ("Back/.start", "Back/Bury"),
        ("Back/Bury", "Back/Dead"),
    }
    lines = drawn.splitlines()
    (caught,) = (line for line in lines if '"Front/Prepare" -> "Front/Wait"' in line)
    assert 'style="dashed"' in caught
    assert '"  Lambda.*, Mine  "' in caught
    (starts,) = (line for line in lines if "Front/Hand over" in line and "Back/" in line)
    assert "style=dotted" in starts
    assert '  it is \\"slow\\"  ' in drawn
    assert '"  no items  "' in drawn
    assert 'label="Bury all of them (for each)"' in drawn
    assert 'label="express workflow: Front"' in drawn
    # what only an error leads to is pale
    (waiting,) = (line for line in lines if line.strip().startswith('"Front/Wait" ['))
    assert 'fillcolor="white"' in waiting
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=drawn, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("condition", "label"),
    [
        ("{% $count($pending) = 0 %}", "no pending"),
        ("{% $count($batch) > 1 %}", "more than one in batch"),
        (
            "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) "
            "> 210000 %}",
            "after 210 s",
        ),
        ("{% $contains($key, 'x') %}", "contains(key, 'x')"),
        ("{% $" + "x" * 99 + " %}", "x" * 43 + "…"),
    ],
)
def test_conditions_are_shortened(condition: str, label: str, state_machine: ModuleType) -> None:
    assert state_machine._condition({"Condition": condition}) == label
