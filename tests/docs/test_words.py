"""How the English of comments, docstrings and pages reads; see `docs/scripts/words.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = {
    "headless": 1,
    "is no": 0,
    "beside": 3,
    "else": 0,
    "of its own": 0,
    "long sentence": 0,
    "long line": 0,
}
"""How many places break each rule today. Lower a number when you have mended some; none may rise."""


def test_no_rule_is_broken_more_often_than_before() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "docs" / "scripts" / "words.py"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    counts = {
        rule.strip(): int(number) for number, _, rule in (line.strip().partition(" ") for line in printed.splitlines())
    }
    assert counts.keys() == MOST.keys()
    risen = {rule: (MOST[rule], number) for rule, number in counts.items() if number > MOST[rule]}
    assert not risen, f"run `python docs/scripts/words.py RULE` for the places: {risen}"


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.py", '"""Return it.\n\nWhat is slow waits.\n"""\n', "headless"),
        ("a.py", "# Of the version and not of the function.\n", "headless"),
        ("a.py", "x = 1  # a scalar is no tensor\n", "is no"),
        ("a.md", "The file lies beside the recipe.\n", "beside"),
        ("a.md", "Name it, else it fails.\n", "else"),
        ("a.md", "It has a bucket of its own.\n", "of its own"),
        ("a.md", f"{'word ' * 26}.\n", "long sentence"),
        ("a.md", f"{'w' * 121}\n", "long line"),
    ],
)
def test_each_rule_finds_what_breaks_it(
    name: str, text: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "scripts")
    import words

    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert rule in {finding.rule for finding in words.find(tmp_path / name)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "x = 'Of no use, else'\n"),
        ("a.md", "`What is no` use\n\n```\nOf no use, else beside\n```\n"),
    ],
)
def test_code_breaks_no_rule(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "scripts")
    import words

    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert not list(words.find(tmp_path / name))
