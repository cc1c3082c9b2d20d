"""The pictures of state machines are drawn from what the apps synthesize."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

# The app that each picture in docs/images/ shows.
PICTURES = {"workflow": "app.py", "cascade": "examples/cascade/app.py"}
GRAPHS = sorted((ROOT / "docs" / "images").glob("*.dot"))


@pytest.fixture(scope="module")
def state_machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("state_machine", ROOT / "docs" / "scripts" / "state_machine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["state_machine"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def edges(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r'"(.+?)" -> "(.+?)"', text))


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_of_the_apps(
    name: str, state_machine: ModuleType, synthesized: Callable[[str], dict[str, Any]]
) -> None:
    template = synthesized(PICTURES[name])
    drawn = state_machine.graphs(template)
    files = [path.with_suffix(".dot") for path in state_machine.names(ROOT / "docs" / "images" / name, len(drawn))]
    assert {path: path.read_text(encoding="utf-8") for path in GRAPHS if path in files} == dict(
        zip(files, drawn, strict=True)
    ), f"run: python docs/scripts/state_machine.py {PICTURES[name]} docs/images/{name}"


def test_an_app_is_run_as_the_cdk_cli_does(
    state_machine: ModuleType, synthesized: Callable[[str], dict[str, Any]]
) -> None:
    app = "examples/alarms/app.py"
    assert state_machine.graphs(state_machine.synthesized(ROOT / app)) == state_machine.graphs(synthesized(app))


def test_every_picture_is_of_an_app() -> None:
    assert {re.sub(r"-\d+$", "", path.stem) for path in GRAPHS} == PICTURES.keys()


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_pictures_are_those_of_the_graphs(graph: Path) -> None:
    """Graphviz's versions differ in their bytes, but not in what they draw."""
    text, svg = graph.read_text(encoding="utf-8"), graph.with_suffix(".svg").read_text(encoding="utf-8")
    titles = {html.unescape(title) for title in re.findall(r'class="edge">\s*<title>(.+?)</title>', svg)}
    hidden = {f"{a}->{b}" for line in text.splitlines() if "style=invis" in line for a, b in edges(line)}
    assert titles == {f"{a}->{b}" for a, b in edges(text)} - hidden
    shown = " ".join(html.unescape(label).strip() for label in re.findall(r"<text[^>]*>(.*?)</text>", svg))
    for label in re.findall(r'label="([^"]+)"', text):
        for line in label.split("\\n"):
            assert line.strip() in shown


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_graphviz_takes_the_graphs(graph: Path) -> None:
    draws(graph.read_text(encoding="utf-8"))


def draws(graph: str) -> None:
    if shutil.which("dot") is None and not os.environ.get("CI"):
        pytest.skip("no Graphviz on this machine: apt-get install graphviz")
    done = subprocess.run(["dot", "-Tsvg"], input=graph, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "</svg>" in done.stdout


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
        "Comment": "buries",
        "StartAt": "Bury all of them",
        "States": {
            "Retry": {"Type": "Pass", "Next": "Bury all of them"},
            "Bury all of them": {
                "Type": "Map",
                "Next": "Dead",
                "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Retry"}],
                "ItemProcessor": {"StartAt": "Bury", "States": {"Bury": {"Type": "Pass", "End": True}}},
            },
            "Dead": {"Type": "Fail"},
        },
    }
    drawn, behind = state_machine.graphs(template(Back=back, Front=front))
    assert edges(drawn) == {
        (".start", "Prepare"),
        ("Prepare", "Slow?"),
        ("Prepare", "Wait"),
        ("Wait", "Prepare"),
        ("Slow?", "Done"),
        ("Slow?", "Hand over"),
        ("Hand over", "Done"),
        ("Hand over", "starts Back"),
    }
    lines = drawn.splitlines()
    (caught,) = (line for line in lines if '"Prepare" -> "Wait"' in line)
    assert 'style="dashed"' in caught
    assert '"  Lambda.*, Mine  "' in caught
    assert '"  no items  "' in drawn
    assert '  it is \\"slow\\"  ' in drawn
    assert '"standard workflow,\\nburies"' in drawn
    assert 'label="express workflow"' in drawn
    # what only an error leads to is pale
    (waiting,) = (line for line in lines if line.strip().startswith('"Wait" ['))
    assert 'fillcolor="white"' in waiting
    draws(drawn)

    assert edges(behind) == {(".start", "Bury"), ("Bury", "Dead"), ("Bury", "Retry"), ("Retry", "Bury")}
    assert 'label="Bury (Bury all of\\nthem, for each)"' in behind
    draws(behind)


def test_what_catches_many_states_is_drawn_once(state_machine: ModuleType) -> None:
    def task(following: str) -> dict[str, Any]:
        catch = [{"ErrorEquals": ["States.ALL"], "Next": "Trouble"}]
        return {"Type": "Task", "Resource": "lambda", "Next": following, "Catch": catch}

    states = {"a: Read": task("Infer"), "Infer": task("b: Read"), "b: Read": task("Write")}
    ends = {"Trouble": {"Type": "Fail"}, "End": {"Type": "Succeed"}}
    (few,) = state_machine.graphs(
        template(Front={"StartAt": "a: Read", "States": states | {"Write": task("End")} | ends})
    )
    assert "any Read, Infer or\\nWrite" in few
    assert (".any 0", "Trouble") in edges(few)
    assert ("Infer", "Trouble") not in edges(few)
    draws(few)
    less = states | {"Write": {"Type": "Succeed"}} | ends
    (each,) = state_machine.graphs(template(Front={"StartAt": "a: Read", "States": less}))
    assert {source for source, target in edges(each) if target == "Trouble"} == states.keys()


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
