"""Every message of an error says what must be, or what cannot be done."""

import ast
import re
from pathlib import Path

import pytest

import cdk_inference

SOURCES = Path(cdk_inference.__file__).parent
ERRORS = {"PropError", "ModelBuildError", "LocalError", "NothingDeployedError", "BytecodeError", "InferenceError"}
ERRORS |= {"InitError"}
RULE = re.compile(r"\b(must|cannot|needs)\b")
WITH_RULE = re.compile(r"\b(error|failure|_failure|fault|stale|rule|what|_explain|_reason|MISSING_EXTRA)\b")
"""These hold the rule already: the message of another error, and text that several messages share."""


def messages(file: Path) -> list[str]:
    """Return the expressions of the messages in a file, without those that a function makes."""
    raised = [node.exc for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
    calls = [exc for exc in raised if isinstance(exc, ast.Call) and ast.unparse(exc.func) in ERRORS]
    return [ast.unparse(call.args[0]) for call in calls if not isinstance(call.args[0], ast.Call)]


@pytest.mark.parametrize("file", sorted(SOURCES.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCES)))
def test_a_message_says_what_must_be(file):
    assert [each for each in messages(file) if not RULE.search(each) and not WITH_RULE.search(each)] == []


@pytest.mark.parametrize("file", sorted(SOURCES.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCES)))
def test_a_message_says_the_rule_before_the_value(file):
    assert [each for each in messages(file) if re.search(r", must (?:be|have|return)\b", each)] == []


def test_messages_are_found():
    assert sum(len(messages(file)) for file in SOURCES.rglob("*.py")) > 300
