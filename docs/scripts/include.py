"""Copy files into the code blocks under `<!-- include path -->` comments: `python docs/scripts/include.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"(<!-- include (\S+) -->\n```\w+\n).*?(^```$)", re.DOTALL | re.MULTILINE)


def included(page: str) -> str:
    """Return a page with its included blocks as the files are now."""
    return _BLOCK.sub(lambda match: match[1] + (ROOT / match[2]).read_text(encoding="utf-8") + match[3], page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(included(path.read_text(encoding="utf-8")), encoding="utf-8")
