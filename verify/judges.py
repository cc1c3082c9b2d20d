"""The judges of `make verify`: tools that nobody here wrote, and how what they say is explained.

A judge belongs to a group, and a group is a module with a sequence ``JUDGES``. To add a group, add its module to
`GROUPS`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from verify.references import Reference
    from verify.tools import Tools

GROUPS = {
    "templates": "verify.templates",
    "policies": "verify.policies",
    "definitions": "verify.definitions",
    "second-emulator": "verify.second_emulator",
}
"""The module of each group."""

EXPLANATIONS = Path(__file__).parents[1] / "constructs" / "cdk_inference" / "common" / "explanations.toml"


@dataclass(frozen=True, order=True)
class Finding:
    """A complaint of a tool.

    Parameters
    ----------
    tool, rule
        The tool that complains, and its rule.
    app
        The reference app.
    subject
        The logical id of a resource, a state's name, or what else the rule is about.
    kind
        The type of the resource, if it is one.
    message
        The tool's message.
    """

    tool: str
    rule: str
    app: str
    subject: str
    kind: str = ""
    message: str = field(default="", compare=False)


@dataclass(frozen=True)
class Verdict:
    """The verdict of a judge.

    Parameters
    ----------
    checked
        How many questions were asked, such as rules times templates. A judge that asked nothing fails.
    findings
        Its complaints.
    """

    checked: int
    findings: Sequence[Finding] = ()


class Judge(Protocol):
    """A tool that looks at the reference apps."""

    @property
    def name(self) -> str:
        """The judge's name in the table."""

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools in the findings, for which all explanations must match something."""

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Look at the reference apps."""


@dataclass(frozen=True)
class Explanation:
    """Why findings are right as they are.

    Parameters
    ----------
    name
        The table's name in the file.
    reason
        Why.
    rules
        Regular expressions of the rules of each tool.
    kinds
        Types of the resources that it covers. Default: all.
    subjects
        A regular expression of the logical ids. Default: all.
    """

    name: str
    reason: str
    rules: dict[str, tuple[str, ...]]
    kinds: tuple[str, ...] = ()
    subjects: str = ""

    def covers(self, finding: Finding) -> str | None:
        """Return the rule of this explanation that covers a finding."""
        if self.kinds and finding.kind not in self.kinds:
            return None
        if self.subjects and not re.search(self.subjects, finding.subject):
            return None
        for rule in self.rules.get(finding.tool, ()):
            # cdk-nag 3 adds the detail in brackets, and cdk-nag 2 leaves it out of its report.
            if finding.rule == rule or finding.rule.startswith(f"{rule}[") or rule.startswith(f"{finding.rule}["):
                return rule
        return None


def read_explanations(path: Path = EXPLANATIONS) -> list[Explanation]:
    """Read the file of explanations."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Explanation(
            name=name,
            reason=entry["reason"],
            rules={tool: tuple(rules) for tool, rules in entry["rules"].items()},
            kinds=tuple(entry.get("kinds", ())),
            subjects=entry.get("subjects", ""),
        )
        for name, entry in found.items()
    ]


def unexplained(
    findings: Iterable[Finding], explanations: Sequence[Explanation], tools: Iterable[str]
) -> tuple[list[Finding], list[str]]:
    """Compare what judges say with what is explained.

    Parameters
    ----------
    findings
        The findings of the judges.
    explanations
        The explanations of the file.
    tools
        The tools that looked at all reference apps.

    Returns
    -------
    Findings without an explanation, and rules of explanations that match no finding.
    """
    missing: list[Finding] = []
    used: set[tuple[str, str, str]] = set()
    for finding in sorted(set(findings)):
        covering = [(each.name, rule) for each in explanations if (rule := each.covers(finding)) is not None]
        used.update((name, finding.tool, rule) for name, rule in covering)
        if not covering:
            missing.append(finding)
    stale = [
        f"{each.name}: {tool} {rule}"
        for each in explanations
        for tool in sorted(set(each.rules) & set(tools))
        for rule in each.rules[tool]
        if (each.name, tool, rule) not in used
    ]
    return missing, stale
