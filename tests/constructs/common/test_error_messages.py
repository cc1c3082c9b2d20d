"""Every message about a prop says what the prop must be."""

import ast
import re
from pathlib import Path

import pytest

import cdk_inference

SOURCES = Path(cdk_inference.__file__).parent
WITH_RULE = ("{error}", "{what.format(")
"""These already hold the rule: the message of another error, and a text that a warning shares."""


def messages(file: Path) -> list[str]:
    """Return the expressions of the messages in a file, without those that a function makes."""
    raised = [node.exc for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
    calls = [exc for exc in raised if isinstance(exc, ast.Call) and ast.unparse(exc.func) == "PropError"]
    return [ast.unparse(call.args[0]) for call in calls if not isinstance(call.args[0], ast.Call)]


@pytest.mark.parametrize("file", sorted(SOURCES.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCES)))
def test_a_message_says_what_must_be(file):
    others = [each for each in messages(file) if not any(part in each for part in WITH_RULE)]
    assert [each for each in others if not re.search(r"\b(must|cannot|needs)\b", each)] == []


def test_messages_are_found():
    assert sum(len(messages(file)) for file in SOURCES.rglob("*.py")) > 100
