"""The judge of policies finds what is broken on purpose: a grant that is missing, one that is too wide."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from verify.policies import ask, reviewed
from verify.references import references
from verify.tools import Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Statements = list[dict[str, Any]]


def template(name: str) -> dict[str, Any]:
    (found,) = (reference for reference in references() if reference.name == name)
    return found.template


def policies(app: dict[str, Any]) -> Iterator[tuple[str, Statements]]:
    """Yield the statements of each policy, to be changed."""
    for id, resource in app["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties.get(name) for name in ("PolicyDocument", "KeyPolicy", "AssumeRolePolicyDocument")]
        documents += [inline["PolicyDocument"] for inline in properties.get("Policies", ())]
        for number, document in enumerate(filter(None, documents)):
            yield f"{id}-{number}", document["Statement"]


def mutants(app: dict[str, Any], change: Callable[[Statements, int], bool]) -> dict[str, dict[str, Any]]:
    """Return a copy of an app for each of its statements, in which that statement is changed."""
    found = {}
    for id, statements in policies(app):
        for number in range(len(statements)):
            mutant = copy.deepcopy(app)
            if change(dict(policies(mutant))[id], number):
                found[f"{id} {number} {json.dumps(statements[number].get('Action'))}"] = mutant
    return found


def remove(statements: Statements, number: int) -> bool:
    del statements[number]
    return True


def widen(statements: Statements, number: int) -> bool:
    statement = statements[number]
    # The policy of a resource is about that resource, whatever it names.
    if "Principal" in statement or statement["Resource"] == "*":
        return False
    statement["Resource"] = "*"
    return True


def drop_condition(statements: Statements, number: int) -> bool:
    return statements[number]["Effect"] == "Allow" and statements[number].pop("Condition", None) is not None


@pytest.mark.slow
@pytest.mark.parametrize("change", [remove, widen, drop_condition])
def test_each_statement_that_is_changed_fails(change):
    broken = mutants(template("Fused"), change)
    assert len(broken) > 3
    found = {finding.app for finding in ask(broken, Tools()).findings}
    # The workflow may use the key for the dead-letter queue, and so for its executions, whatever this policy says.
    assert found == {name for name in broken if "Encryption" not in name}


@pytest.mark.slow
def test_a_prefix_that_is_dropped_fails():
    app = copy.deepcopy(template("OwnKey"))
    text = json.dumps(app).replace(":s3:::my-photos/in/*", ":s3:::my-photos/*")
    found = ask({"OwnKey": json.loads(text)}, Tools()).findings
    assert {(finding.rule, finding.subject[:19]) for finding in found} == {("too wide", "PhotosPreprocessRol")}


@pytest.mark.slow
def test_records_of_all_releases_are_too_much_for_each_role_of_a_release():
    app = copy.deepcopy(template("Released"))
    for _, statements in policies(app):
        for number, statement in enumerate(statements):
            if "dynamodb:LeadingKeys" in json.dumps(statement):
                drop_condition(statements, number)
    found = ask({"Released": app}, Tools()).findings
    roles = ("Workflow", "ReleaseStepper", "ReleaseStepperJudge", "ReleaseComparisonCompare")
    assert {finding.rule for finding in found} == {"too wide"}
    assert {re.sub(r"(StateMachine|Function)?Role\w*", "", finding.subject) for finding in found} == {
        f"Photos{role}" for role in roles
    }


@pytest.mark.slow
def test_an_action_that_is_added_fails():
    app = copy.deepcopy(template("Default"))
    (grant,) = (one for _, statements in policies(app) for one in statements if one["Action"] == "dynamodb:PutItem")
    grant["Action"] = ["dynamodb:PutItem", "dynamodb:DeleteItem"]
    found = ask({"Default": app}, Tools()).findings
    assert {(finding.rule, finding.subject[:20]) for finding in found} == {("too wide", "PhotosPostprocessRol")}


@pytest.mark.slow
def test_a_handler_that_nobody_knows_fails():
    app = copy.deepcopy(template("Fused"))
    text = json.dumps(app).replace("inference_runtime.handlers.fused.handler", "inference_runtime.new.handler")
    found = ask({"Fused": json.loads(text)}, Tools()).findings
    assert "untraced" in {finding.rule for finding in found}


@pytest.mark.slow
@pytest.mark.parametrize("change", [remove, widen, drop_condition])
def test_the_simulator_of_reviews_agrees_about_each_statement_that_is_changed(change):
    found = reviewed.compare(mutants(template("Fused"), change), Tools())
    assert found.checked > 100
    assert found.findings == []


@pytest.mark.slow
def test_simulators_that_disagree_fail(monkeypatch):
    monkeypatch.setattr(reviewed, "allowed", lambda request: "PutItem" not in request.action)
    found = reviewed.compare({"Default": template("Default")}, Tools()).findings
    assert {finding.rule for finding in found} == {"disagrees"}
    assert any("dynamodb:PutItem" in finding.message for finding in found)
