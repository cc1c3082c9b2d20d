"""Compares templates with the CDK CLI: ``cdk diff --template``, which asks AWS for nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cdk_cli import installed_cdk
from cdk_inference.common.json_values import mapping
from cdk_inference.costs.recorded import METADATA_KEY as COSTS_KEY
from cdk_inference.review.errors import ReviewError
from cdk_inference.review.template import Resource, Template

if TYPE_CHECKING:
    from collections.abc import Iterator

_STACK = "Reviewed"
_MANIFEST = {
    # An old version: every CLI that could be installed reads it.
    "version": "36.0.0",
    "artifacts": {
        _STACK: {
            "type": "aws:cloudformation:stack",
            "environment": "aws://unknown-account/unknown-region",
            "properties": {"templateFile": "new.json"},
        }
    },
}
_CHANGED = re.compile(r"\[(?P<sign>[+~-])\] (?P<type>\S+::\S+) (?P<name>.+)")
_IMPACT = re.compile(r"(?P<name>.+?)(?: (?P<impact>replace|may be replaced|destroy|orphan|import))?")
_SECTION = re.compile(r"[A-Z][A-Za-z ]+")
_SUM = re.compile("\n+✨.*", re.DOTALL)
# The CLI shows values as they are: one with line breaks could look like the end of the resources.
_BREAKS = {ord("\n"): "\N{SYMBOL FOR LINE FEED}", ord("\r"): "\N{SYMBOL FOR CARRIAGE RETURN}"}
_SECONDS = 300.0


@dataclass(frozen=True)
class Change:
    """A resource that changes.

    Parameters
    ----------
    stack
        The path of its stack.
    sign
        ``+``, ``~`` or ``-``.
    before, after
        The resource; None where it does not exist.
    impact
        ``replace``, ``may be replaced``, ``destroy``, ``orphan`` or nothing, as ``cdk diff`` says it.
    lines
        The lines that ``cdk diff`` shows below it.
    """

    stack: str
    sign: str
    before: Resource | None
    after: Resource | None
    impact: str
    lines: tuple[str, ...]

    @property
    def resource(self) -> Resource:
        """The resource, as it will be if it still exists then."""
        found = self.after or self.before
        assert found is not None  # noqa: S101 - one of them is given
        return found

    @property
    def code_alone(self) -> bool:
        """Whether only the hash of an asset, or a version that follows from it, is another one."""
        if self.sign != "~" or self.impact:
            return False
        names = {found[1] for line in self.lines if (found := re.match(r" [├└]─ \[.\] (\S+)", line))}
        return names <= {"Code", "Metadata", "FunctionVersion", "TemplateURL", "Content"}


@dataclass(frozen=True)
class StackDiff:
    """The answer of ``cdk diff`` for one template.

    Parameters
    ----------
    path
        The path of the stack.
    changes
        The resources.
    text
        All that it says, without the name of the stack.
    """

    path: str
    changes: tuple[Change, ...]
    text: str


def compare(before: Mapping[str, Template], after: Mapping[str, Template]) -> list[StackDiff]:
    """Compare the templates of two assemblies; those that are equal are left out.

    A stack that is not in the app any more is left out too, and so are those nested in it: ``cdk deploy`` leaves them
    alone. A nested one whose outer stack is still in the app is not: it goes when that is deployed.

    Raises
    ------
    ReviewError
        If the CLI is not installed, or fails.
    """
    deployed = {template.stack_name for template in after.values() if not template.nested}
    pairs = [(path, before.get(path), template) for path, template in after.items()]
    pairs += [
        (path, template, Template(template.stack_name, path, {}))
        for path, template in before.items()
        if path not in after and template.nested and template.stack_name in deployed
    ]
    diffs = []
    for path, old, new in pairs:
        given = old or Template(new.stack_name, path, {})
        if given.body != new.body:
            text = _diff(given, new)
            if text:
                diffs.append(StackDiff(path, tuple(_changes(text, given, new)), text))
    return diffs


def _diff(before: Template, after: Template) -> str:
    cdk = installed_cdk("review", ReviewError)
    with tempfile.TemporaryDirectory(prefix="cdk-inference-review-") as name:
        folder = Path(name)
        assembly, home, old = folder / "assembly", folder / "home", folder / "old.json"
        for each in (assembly, home):
            each.mkdir()
        (assembly / "manifest.json").write_text(json.dumps(_MANIFEST), "utf-8")
        (assembly / "new.json").write_text(json.dumps(_in_one_line(_without_costs(after.body))), "utf-8")
        old.write_text(json.dumps(_in_one_line(_without_costs(before.body))), "utf-8")
        arguments = ("diff", _STACK, "--app", str(assembly), "--template", str(old), "--no-notices", "--ci")
        try:
            done = subprocess.run(  # noqa: S603
                [*cdk.command, *arguments],
                cwd=home,  # without a cdk.json, whose options would count
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ReviewError(
                f"stack {after.path} cannot be compared: cdk diff did not end in {_SECONDS:g} s; try again"
            ) from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise ReviewError(f"stack {after.path} cannot be compared: cdk diff failed: {said}")
    text = _SUM.sub("", done.stdout).strip("\n")
    _, _, shown = text.partition("\n")  # the name of the stack
    return "" if shown.startswith("There were no differences") else shown


def _without_costs(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a template without what this library recorded of costs, which a review shows in its own words."""
    metadata = {key: value for key, value in mapping(body.get("Metadata")).items() if key != COSTS_KEY}
    rest = {key: value for key, value in body.items() if key != "Metadata"}
    return {**rest, "Metadata": metadata} if metadata else rest


def _in_one_line(value: object) -> object:
    """Return a value of a template in which every line break of a string is a visible mark."""
    if isinstance(value, str):
        return value.translate(_BREAKS)
    if isinstance(value, Mapping):
        return {_in_one_line(key): _in_one_line(each) for key, each in value.items()}
    return [_in_one_line(each) for each in value] if isinstance(value, list | tuple) else value


def _environment(home: Path) -> dict[str, str]:
    # The CLI takes every variable that starts with CDK_ for an option.
    given = {name: value for name, value in os.environ.items() if not name.startswith(("CDK_", "AWS_"))}
    return given | {
        "HOME": str(home),
        "CDK_HOME": str(home),
        "CDK_DISABLE_VERSION_CHECK": "true",
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_COLOR": "1",
    }


def _changes(text: str, before: Template, after: Template) -> Iterator[Change]:
    lines = text.split("\n")
    start = lines.index("Resources") + 1 if "Resources" in lines else len(lines)
    found: list[tuple[re.Match[str], list[str]]] = []
    for line in lines[start:]:
        if _SECTION.fullmatch(line):
            break
        match = _CHANGED.fullmatch(line)
        if match is not None:
            found.append((match, []))
        elif line.strip() and found:
            found[-1][1].append(line)
    for match, below in found:
        named = _IMPACT.fullmatch(match["name"])
        assert named is not None  # noqa: S101 - it matches every text
        logical_id = named["name"].rpartition(" ")[2]
        old, new = before.resources.get(logical_id), after.resources.get(logical_id)
        if old is not None or new is not None:
            yield Change(after.path, match["sign"], old, new, named["impact"] or "", tuple(below))
