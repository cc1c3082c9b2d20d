"""The judges of definitions find what is broken on purpose, and the interpreter does what the specification says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from verify.definitions import StateLint, Validators, play
from verify.policies.template import Template
from verify.references import Reference, references
from verify.tools import Tools

from verify import node

MACHINE = "AWS::StepFunctions::StateMachine"
SCENARIOS = (
    "5 good",
    "3 of 5 raises",
    "3 of 5 kills",
    "3 of 5 kills the model",
    "mix 1",
    "32, buries 32 later",
    "32, nobody may invoke",
    "32, throttled for ever, fused",
    "the first 32 of 32 hangs the model",
)
INVOKE = "arn:aws:states:::lambda:invoke"
TRANSIENT = "Lambda.ServiceException"


@pytest.fixture(scope="module")
def fused():
    (found,) = (reference for reference in references() if reference.name == "Fused")
    return found.template


def definition_of(app: dict[str, Any]) -> dict[str, Any]:
    (machine,) = Template(app).of(MACHINE)
    return json.loads(machine.properties["DefinitionString"])


def with_definition(app: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(app)
    (machine,) = (one for one in changed["Resources"].values() if one["Type"] == MACHINE)
    machine["Properties"]["DefinitionString"] = json.dumps(definition)
    return changed


def expressions(value: Any, path: tuple[Any, ...] = ()):
    """Yield where the expressions of a definition are."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in entries:
        if isinstance(one, str) and one.startswith("{%"):
            yield (*path, key)
        yield from expressions(one, (*path, key))


def replaced(definition: dict[str, Any], path: tuple[Any, ...], value: str) -> dict[str, Any]:
    changed = copy.deepcopy(definition)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


# --- mutations ---


@pytest.mark.slow
def test_a_workflow_as_it_is_passes(fused):
    verdict = play({"Fused": fused}, Tools(), only=SCENARIOS)
    assert verdict.checked == len(SCENARIOS)
    assert not verdict.findings


@pytest.mark.slow
def test_each_expression_that_comes_to_nothing_fails(fused):
    definition = definition_of(fused)
    broken = {
        str(path): with_definition(fused, replaced(definition, path, "{% $nothing %}"))
        for path in expressions(definition)
    }
    assert len(broken) > 10
    left = broken
    for scenario in SCENARIOS:  # one is enough for each
        found = {finding.app for finding in play(left, Tools(), only=[scenario]).findings} if left else set()
        left = {name: app for name, app in left.items() if name not in found}
    assert left == {}


@pytest.mark.slow
def test_a_message_that_is_forgotten_fails(fused):
    text = json.dumps(definition_of(fused))
    assert "Payload.retry]" in text
    forgetful = with_definition(fused, json.loads(text.replace("$states.result.Payload.retry]", "]")))
    verdict = play({"Fused": forgetful}, Tools(), only=["32, S3 serves 32 later"])
    assert {finding.message.partition(":")[0] for finding in verdict.findings} == {"lost"}


@pytest.mark.slow
def test_each_pipeline_of_an_app_is_asked_and_those_alike_once(fused):
    late = ["32, S3 serves 32 later"]
    (apis,) = (reference.template for reference in references() if reference.name == "Apis")
    verdict = play({"Fused": fused, "Apis": apis}, Tools(), only=late)
    assert (verdict.checked, verdict.findings) == (2, [])  # of four: Apis has three, for photographs, texts and fused
    forgetful = copy.deepcopy(apis)
    machines = {id: one for id, one in forgetful["Resources"].items() if one["Type"] == MACHINE}
    (machine,) = (one for id, one in machines.items() if id.startswith("Fused"))
    text = json.dumps(machine["Properties"])
    assert "Payload.retry]" in text
    machine["Properties"] = json.loads(text.replace("$states.result.Payload.retry]", "]"))
    verdict = play({"Fused": fused, "Apis": forgetful}, Tools(), only=late)
    assert verdict.checked == 3
    assert {finding.app for finding in verdict.findings} == {"Apis"}


@pytest.mark.slow
def test_what_is_no_expression_fails(fused, tmp_path):
    definition = definition_of(fused)
    path = next(iter(expressions(definition)))
    (tmp_path / "Fused.json").write_text(json.dumps(with_definition(fused, replaced(definition, path, "{% [1, %}"))))
    findings = Validators().examine([Reference("Fused", tmp_path / "Fused.json")], Tools()).findings
    assert "jsonata" in {finding.rule for finding in findings}


@pytest.mark.slow
def test_a_state_that_leads_nowhere_fails(fused, tmp_path):
    definition = definition_of(fused)
    definition["States"][definition["StartAt"]]["Next"] = "Nowhere"
    (tmp_path / "Fused.json").write_text(json.dumps(with_definition(fused, definition)))
    reference = Reference("Fused", tmp_path / "Fused.json")
    found = [*Validators().examine([reference], Tools()).findings, *StateLint().examine([reference], Tools()).findings]
    assert {finding.tool for finding in found} == {"asl-validator", "language-service", "statelint"}


# --- the interpreter ---


def interpret(states: dict[str, Any], *answers: dict[str, Any], input: Any = None, **top: Any) -> dict[str, Any]:
    definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states, **top}
    script = Path(__file__).with_name("interpret.mjs")
    return node.run(script, Tools().package("jsonata"), {"definition": definition, "input": input, "answers": answers})


def task(**more: Any) -> dict[str, Any]:
    return {"Type": "Task", "Resource": INVOKE, "Arguments": {"x": "{% $states.input %}"}, "End": True, **more}


def test_assignments_see_the_variables_as_they_were():
    states = {
        "A": {"Type": "Pass", "Assign": {"x": 1, "y": 2}, "Next": "B"},
        "B": {"Type": "Pass", "Assign": {"x": "{% $y %}", "y": "{% $x %}"}, "Output": "{% $x %}", "Next": "C"},
        "C": {"Type": "Pass", "Output": {"x": "{% $x %}", "y": "{% $y %}", "was": "{% $states.input %}"}, "End": True},
    }
    assert interpret(states)["output"] == {"x": 2, "y": 1, "was": 1}


def test_an_expression_without_a_value_fails():
    states = {"A": {"Type": "Pass", "Output": "{% $states.input.missing %}", "End": True}}
    assert "nothing comes of" in interpret(states, input={})["broken"]


def test_a_state_that_is_too_large_fails():
    states = {"A": {"Type": "Pass", "Output": "{% $pad('', 262143, 'a') %}", "End": True}}
    assert "more than 262144" in interpret(states)["broken"]


def test_retries_take_time_and_come_before_catchers():
    retry = {"ErrorEquals": [TRANSIENT], "IntervalSeconds": 2, "MaxAttempts": 2, "BackoffRate": 3}
    catch = {"ErrorEquals": ["States.ALL"], "Assign": {"said": "{% $states.errorOutput.Error %}"}, "Next": "B"}
    states = {
        "A": task(Retry=[retry], Catch=[catch]),
        "B": {"Type": "Pass", "Output": ["{% $said %}", "{% $states.input.Cause %}"], "End": True},
    }
    failing = {"error": TRANSIENT, "takes": 1000}
    ended = interpret(states, failing, failing, failing)
    assert [when for _, _, when in ended["calls"]] == [0, 3000, 10_000]
    assert ended["output"] == [TRANSIENT, "a cause"]


def test_an_error_that_nobody_catches_fails_the_execution():
    catch = {"ErrorEquals": ["Lambda.Other"], "Next": "B"}
    ended = interpret({"A": task(Catch=[catch]), "B": {"Type": "Succeed"}}, {"error": TRANSIENT})
    assert (ended["status"], ended["error"]) == ("FAILED", TRANSIENT)


def test_an_execution_that_takes_too_long_times_out():
    catch = {"ErrorEquals": ["States.ALL"], "Next": "B"}
    states = {"A": task(Catch=[catch]), "B": {"Type": "Succeed"}}
    assert interpret(states, {"takes": 61_000, "result": 1}, TimeoutSeconds=60)["status"] == "TIMED_OUT"


def test_a_map_runs_as_many_items_at_a_time_as_it_may():
    states = {
        "A": {
            "Type": "Map",
            "Items": "{% $states.input %}",
            "MaxConcurrency": 2,
            "ItemProcessor": {"StartAt": "T", "States": {"T": task()}},
            "Assign": {"all": "{% $states.result %}"},
            "Next": "B",
        },
        "B": {"Type": "Pass", "Output": "{% $all %}", "End": True},
    }
    answers = [{"takes": 5000, "result": 1}, {"takes": 1000, "result": 2}, {"takes": 1000, "result": 3}]
    ended = interpret(states, *answers, input=["a", "b", "c"])
    assert ended["calls"] == [["T", {"x": "a"}, 0], ["T", {"x": "b"}, 0], ["T", {"x": "c"}, 1000]]
    assert (ended["output"], ended["now"]) == ([1, 2, 3], 5000)


def test_branches_run_at_the_same_time_and_the_last_one_counts():
    branches = [{"StartAt": name, "States": {name: task()}} for name in ("T", "U")]
    states = {"A": {"Type": "Parallel", "Branches": branches, "Output": "{% $states.result %}", "End": True}}
    ended = interpret(states, {"takes": 5000, "result": 1}, {"takes": 1000, "result": 2}, input="a")
    assert ended["calls"] == [["T", {"x": "a"}, 0], ["U", {"x": "a"}, 0]]
    assert (ended["output"], ended["now"]) == ([1, 2], 5000)
