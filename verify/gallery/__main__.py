"""Entry point: ``python -m verify.gallery`` builds the recipes of the gallery for this machine, and prints a table.

With ``--write``, the lines go into docs/model/gallery.md. The exit code is 1 if a recipe does not build, and 69 if
the packages cannot be downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference import LambdaPlatform
from cdk_inference.common.cache import cache_root
from cdk_inference.common.terminal import say
from verify.gallery.examples import BY_HAND, EXAMPLES, GALLERY, ROOT, Example
from verify.models.packages import UnavailableError, installed

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = ROOT / "docs" / "model" / "gallery.md"

_UNAVAILABLE, _OTHER = 69, 1
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_TABLE = re.compile(r"(<!-- gallery -->\n)((?:\|.*\n)*)")
_HEAD = (
    "| Kind | Source | Recipe | Ships | MB | Metric | Built again by |",
    "|---|---|---|---|---|---|---|",
)


def main() -> int:
    """Build, print and write, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m verify.gallery", description=__doc__)
    known = [_folder(example) for example in EXAMPLES]
    parser.add_argument("examples", nargs="*", choices=[[], *known], help="only these; by default all")
    parser.add_argument("--write", action="store_true", help="write the lines into the table of the page")
    arguments = parser.parse_args()
    chosen = [
        example
        for example in EXAMPLES
        if (_folder(example) in arguments.examples if arguments.examples else example.builder != BY_HAND)
    ]
    try:
        packages = installed(cache_root() / "verify-gallery", requirements=_REQUIREMENTS)
    except UnavailableError as error:
        say(f"the gallery was not verified: {error}")
        return _UNAVAILABLE
    lines = {}
    for example in chosen:
        built = build(example, packages)
        if built is None:
            return _OTHER
        lines[example.recipe] = line(example, built)
        print(lines[example.recipe])  # noqa: T201
    if arguments.write:
        write(lines)
    return 0


def write(lines: Mapping[str, str]) -> None:
    """Replace the lines of some recipes in the table of the page."""
    text = PAGE.read_text("utf-8")
    found = _TABLE.search(text)
    if found is None:
        raise AssertionError("the page has a table")
    before = {example.recipe: each for each in found[2].splitlines() for example in EXAMPLES if example.recipe in each}
    table = [*_HEAD, *(each for example in EXAMPLES if (each := ({**before, **lines}).get(example.recipe)))]
    PAGE.write_text(text.replace(found[0], found[1] + "\n".join((*table, ""))), "utf-8")


def build(example: Example, packages: Path) -> dict[str, Any] | None:
    """Build a recipe as its user would, and return the report; None, after its message, if it fails.

    Parameters
    ----------
    packages
        A folder with packages that the recipe may import.
    """
    command = [sys.executable, "-m", "cdk_inference.model", "build", str(GALLERY / example.recipe), "--json"]
    done = subprocess.run(
        [*command, "--search", "--architecture", LambdaPlatform.host().architecture],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        say(f"{example.recipe} cannot be built")
        return None
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def line(example: Example, report: dict[str, Any]) -> str:
    """Return the line of the table with what a build found."""
    (shipped,) = (each for each in report["candidates"] if each["status"] == "shipped")
    (float32,) = (each for each in report["candidates"] if each["name"] == "float32")
    sizes = [f"{each['size_bytes'] / 1e6:.2f}" for each in (float32, shipped)]
    cells = (
        example.kind,
        example.source,
        f"[{example.recipe}](../../examples/gallery/{example.recipe})",
        shipped["name"],
        sizes[1] if float32 is shipped else f"{sizes[1]}, float32 {sizes[0]}",
        f"{report['gate']['metric'].rpartition(':')[2]} {shipped['quality']:.3f}",
        example.builder,
    )
    return f"| {' | '.join(cells)} |"


def _folder(example: Example) -> str:
    return example.recipe.partition("/")[0]


if __name__ == "__main__":
    sys.exit(main())
