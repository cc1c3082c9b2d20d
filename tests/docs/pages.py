"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| (.+) \|$")


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[tuple[int, str]]:
        """Line number and text of each code block."""
        return [
            (self.text.count("\n", 0, match.start(2)) + 1, match[2])
            for match in _FENCE.finditer(self.text)
            if match[1] == language
        ]

    def included(self) -> list[str]:
        """Texts of the code blocks that are copies of files."""
        return re.findall(r"<!-- include \S+ -->\n```python\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    def anchors(self) -> set[str]:
        """Names that GitHub gives to the headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def tables(self, mark: str) -> dict[str, list[list[str]]]:
        """Cells of the tables below a comment `<!-- mark … -->`, by the rest of the comment."""
        return {
            comment.strip(): [_ROW.sub(r"\1", line).split(" | ") for line in table.strip().split("\n")[2:]]
            for comment, table in re.findall(rf"<!-- {mark}( \w+)? -->\n((?:\|.*\n)+)", self.prose)
        }


PAGES = [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]


def page(name: str) -> Page:
    return next(page for page in PAGES if page.path.name == name)
