"""Counts what reads as translated: `python docs/scripts/words.py`, or with a rule for its places.

It reads comments and docstrings of Python files, and the prose of Markdown pages.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
MOST_WORDS = 25
MOST_CHARACTERS = 120

PATTERNS = {
    "headless": re.compile(r"(?:^|(?<=[.:;] ))(?:What|Who|Whose|Of)\b[^?]*?(?:[.;:]|$)"),
    "is no": re.compile(r"(?<!here )\b(?:is|are|was|were) no\b(?! longer| more than)"),
    "beside": re.compile(r"\bbeside\b"),
    "else": re.compile(r"[,;] else\b|\bor else\b"),
    "of its own": re.compile(r"\bof (?:our|its|their) own\b"),
}
RULES = (*PATTERNS, "long sentence", "long line")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"`*\[])")
_CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_QUIET = re.compile(r"^\s*(?:noqa|type:|fmt:|pragma|!)|^https?://\S+$")


class Finding(NamedTuple):
    """A place that breaks a rule."""

    rule: str
    file: str
    line: int
    text: str


def files() -> list[Path]:
    """Return the Python files and Markdown pages of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.py", "*.md"],  # noqa: S607 - the developer's git
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and name != "CHANGELOG.md"]


def find(path: Path) -> Iterator[Finding]:
    """Yield what a file breaks."""
    text = path.read_text("utf-8")
    name = path.relative_to(ROOT).as_posix()
    paragraphs = _of_python(text) if path.suffix == ".py" else _of_markdown(text)
    for line, written in paragraphs:
        paragraph = re.sub("`[^`]+`", "`x`", written)
        for rule, pattern in PATTERNS.items():
            yield from (Finding(rule, name, line, found.group()) for found in pattern.finditer(paragraph))
        for sentence in _SENTENCE.split(paragraph):
            if len(sentence.split()) > MOST_WORDS:
                yield Finding("long sentence", name, line, sentence)
    if path.suffix == ".md":
        for number, line_text in enumerate(_CODE.sub(_blank, text).splitlines(), 1):
            if len(line_text) > MOST_CHARACTERS and not line_text.lstrip().startswith(("|", "[", "!", "<")):
                yield Finding("long line", name, number, line_text)


def _blank(code: re.Match[str]) -> str:
    return "\n" * code.group().count("\n")


def _of_markdown(text: str) -> Iterator[tuple[int, str]]:
    lines = _CODE.sub(_blank, text).splitlines()
    start, gathered = 1, list[str]()
    for number, line in enumerate((*lines, ""), 1):
        stripped = line.strip()
        item = re.match(r"(?:[-*]|\d+\.) ", stripped)
        if not stripped or item or stripped.startswith(("|", "#", "<", "![")):
            if gathered:
                yield start, " ".join(gathered)
            gathered = []
        if stripped and not stripped.startswith(("|", "#", "<", "![")):
            start = start if gathered else number
            gathered.append(stripped[item.end() :] if item else stripped)


def _of_python(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for offset, paragraph in _paragraphs(node.value.value):
                yield node.lineno + offset, paragraph
    start, gathered, last = 0, list[str](), -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        said = token.string.lstrip("#:! ").strip()
        if _QUIET.search(said):
            said = said.partition(" - ")[2]
        number, whole_line = token.start[0], token.line.lstrip().startswith("#")
        if not (whole_line and number == last + 1):
            if gathered:
                yield start, " ".join(gathered)
            start, gathered = number, []
        if said:
            gathered.append(said)
        last = number if whole_line else -1
    if gathered:
        yield start, " ".join(gathered)


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a docstring and their first lines; headings, fields and indented code are left out."""
    lines = text.splitlines()
    start, gathered = 0, list[str]()
    for number, line in enumerate((*lines, "")):
        stripped = line.strip()
        if (
            not stripped
            or set(stripped) <= {"-"}
            or stripped.startswith((">>>", "|"))
            or _is_field(line, lines, number)
        ):
            if gathered:
                yield start, " ".join(gathered)
            gathered = []
            continue
        item = stripped.startswith(("- ", "* "))
        if item and gathered:
            yield start, " ".join(gathered)
            gathered = []
        start = start if gathered else number
        gathered.append(stripped[2:] if item else stripped)


def _is_field(line: str, lines: Sequence[str], number: int) -> bool:
    """Tell whether a line names a parameter or the like, whose description stands below it with more indentation."""
    after = lines[number + 1] if number + 1 < len(lines) else ""
    deeper = len(after) - len(after.lstrip()) > len(line) - len(line.lstrip())
    return bool(after.strip()) and deeper and re.fullmatch(r"\*{0,2}\w+(?:, \*{0,2}\w+)*", line.strip()) is not None


def count() -> Counter[str]:
    """Return how many places break each rule."""
    found = Counter(dict.fromkeys(RULES, 0))
    found.update(finding.rule for path in files() for finding in find(path))
    return found


def main(rule: str | None = None) -> None:
    """Print the counts, or the places that break one rule."""
    if rule is None:
        for name, number in count().items():
            print(f"{number:6} {name}")  # noqa: T201
        return
    for path in files():
        for finding in find(path):
            if finding.rule == rule:
                print(f"{finding.file}:{finding.line}: {finding.text}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
