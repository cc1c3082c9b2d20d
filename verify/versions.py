"""Synthesize the reference apps with other versions of CDK, and compare the templates with those of the pinned one.

``make verify-versions``: the oldest versions that ``pyproject.toml`` allows, and the newest that there are. Each gets
a new environment. A difference is not always an error, and always worth a look: the exit code is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.references import FOLDER, ROOT, apps, references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
"""How uv chooses versions."""

_HASH = re.compile(r"[0-9a-f]{64}|(?<=CurrentVersion)[0-9A-F]{8}[0-9a-f]{32}")
_IGNORED = {"AWS::CDK::Metadata"}  # names the version of CDK


def main() -> int:
    """Compare, print the differences, and return the exit code."""
    names = sys.argv[1:] or list(RESOLUTIONS)
    pinned = {reference.name: reference.template for reference in references()}
    found = 0
    for name in names:
        python = environment(name)
        folder = FOLDER / "versions" / f"{name}-templates"
        shutil.rmtree(folder, ignore_errors=True)
        synthesize(python, folder)
        lines = [
            f"{name}: {app}: {line}"
            for app in apps()
            for line in differences(pinned[app], json.loads((folder / f"{app}.template.json").read_text("utf-8")))
        ]
        print(f"{name}: {installed(python)}: {len(pinned)} apps, {len(lines)} differences", *lines, sep="\n")  # noqa: T201
        found += len(lines)
    return 1 if found else 0


def environment(name: str) -> Path:
    """Make an environment with what the package requires and no more, and return its Python.

    Parameters
    ----------
    name
        One of `RESOLUTIONS`.
    """
    folder = FOLDER / "versions" / name
    shutil.rmtree(folder, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    options = ("--quiet", "--upgrade", "--resolution", RESOLUTIONS[name], "--python", python)
    subprocess.run([uv, "pip", "install", *options, *project["dependencies"]], check=True)
    return python


def synthesize(python: Path, folder: Path) -> None:
    """Synthesize the reference apps with another Python."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "constructs"), str(ROOT / "lambda_src")))
    variables = {**os.environ, "PYTHONPATH": path}
    node = Path(sys.executable).with_name("node")
    if node.exists():
        variables["JSII_NODE"] = str(node)
    subprocess.run([python, "-m", "verify.references", folder], cwd=ROOT, env=variables, check=True)


def installed(python: Path) -> str:
    """Return the versions of CDK in an environment."""
    code = (
        "from importlib.metadata import version;"
        "print(', '.join(f'{name} {version(name)}' for name in ('aws-cdk-lib', 'constructs', 'jsii')))"
    )
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return how the resources of two templates differ, without the hashes of assets and versions."""
    first, second = _resources(one), _resources(other)
    lines = [f"{id} is missing" for id in sorted(first.keys() - second.keys())]
    lines += [f"{id} is new" for id in sorted(second.keys() - first.keys())]
    for id in sorted(first.keys() & second.keys()):
        lines += [f"{id}{line}" for line in _compared(first[id], second[id])]
    return lines


def _resources(template: Mapping[str, Any]) -> dict[str, Any]:
    masked = json.loads(_HASH.sub("(hash)", json.dumps(template["Resources"])))
    return {id: resource for id, resource in masked.items() if resource["Type"] not in _IGNORED}


def _compared(one: Any, other: Any, place: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from _compared(one.get(name), other.get(name), f"{place}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _compared(*pair, f"{place}[{number}]")
    elif one != other:
        yield f"{place}: {json.dumps(one)[:200]} is now {json.dumps(other)[:200]}"


if __name__ == "__main__":
    sys.exit(main())
