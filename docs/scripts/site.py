"""Build the documentation site into `.site/html`: `make docs`.

Zensical builds from a copy. In it, links to files outside of the documentation lead to the repository. The copy also
has the reference: a page for each subject, made from the public names and their docstrings.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
SITE = ROOT / ".site"
REPOSITORY = os.environ.get("REPOSITORY_URL")
"""Address of the repository; without it, links to its files become plain text."""

PAGES = {
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix()
        for path in sorted((ROOT / "docs").rglob("*"))
        if path.is_file() and path.suffix in {".md", ".svg", ".png", ".json", ".css"}
    },
    "docs/README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
}
"""Where each file of the repository goes in the site."""

MODULES = (
    "cdk_inference",
    "cdk_inference.client",
    "cdk_inference.model",
    "cdk_inference.costs",
    "cdk_inference.local",
    "cdk_inference.testing",
)

_CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_INCLUDE = re.compile(r"<!-- include (?:\S+/)?(\S+) -->\n```(\w+)\n")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")


def page(source: str, text: str) -> str:
    """Return a page of the repository as the site has it.

    Parameters
    ----------
    source
        The file, relative to the repository.
    text
        The text of the page.
    """
    here = PurePosixPath(PAGES[source]).parent

    def link(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"\w+:|#", target):
            return match[0]
        name, hash_, anchor = target.partition("#")
        file = os.path.normpath(PurePosixPath(source).parent / name)
        if file in PAGES:
            return f"{mark}[{label}]({os.path.relpath(PAGES[file], here)}{hash_}{anchor})"
        return f"[{label}]({REPOSITORY}/blob/main/{file})" if REPOSITORY else label

    def prose(part: str) -> str:
        return _LINK.sub(link, _COMMENT.sub("", part))

    text = re.sub("^```console$", "```bash", text, flags=re.MULTILINE)  # console highlights after a prompt only
    text = _INCLUDE.sub(r'```\2 title="\1"\n', text)
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [prose(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join((*parts, prose(text[end:])))


def reference() -> dict[str, str]:
    """Return a page for each subject, with all its public names."""
    subjects: dict[str, list[str]] = {}
    for module in MODULES:
        public = importlib.import_module(module)
        for name in public.__all__:
            where = getattr(getattr(public, name), "__module__", "")
            if where.startswith("cdk_inference"):
                subject = where.split(".")[1].replace("errors", "common")
                subjects.setdefault(subject, []).append(f"{where}.{name}")
    return {
        subject: f"# {subject.upper() if subject == 'gpu' else subject.capitalize()}\n\n"
        + "\n".join(f"::: {name}\n" for name in dict.fromkeys(sorted(names)))
        for subject, names in subjects.items()
    }


def prepare() -> None:
    """Write the copy that is built."""
    target = SITE / "docs"
    shutil.rmtree(target, ignore_errors=True)
    for source, name in PAGES.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            file.write_text(page(source, (ROOT / source).read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copy(ROOT / source, file)
    for subject, text in reference().items():
        file = target / "reference" / f"{subject}.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


def main() -> int:
    """Build; any warning fails."""
    prepare()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
