"""Ask a policy simulator that nobody here wrote about every edge of an app: what is allowed, and what is denied.

`verify.policies.flows` is a table of what each part is for, and therefore of what must be allowed. It is not read from
the policies, so that a missing grant shows as well as one that is too wide. `verify.policies.requests` makes the
requests, and `simulate.mjs` answers them with `@cloud-copilot/iam-simulate`. `verify.policies.reviewed` asks it what a
review asks its own simulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verify.judges import Finding, Verdict
from verify.policies.requests import Questions, Request, actions_of
from verify.policies.reviewed import ReviewedCalls
from verify.policies.simulator import PACKAGE, Simulator
from verify.policies.template import Template
from verify.references import UNTRACED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verify.judges import Judge
    from verify.references import Reference
    from verify.tools import Tools


class PolicySimulator:
    """Ask a policy simulator what each role and each service may do, and may not."""

    name = "iam-simulate"
    tools = frozenset({"policies"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Ask about each app what is allowed in it, with the actions of all apps."""
        traced = [reference for reference in references if reference.name not in UNTRACED]
        return ask({reference.name: reference.template for reference in traced}, tools)


JUDGES: Sequence[Judge] = (PolicySimulator(), ReviewedCalls())


def ask(templates: Mapping[str, Mapping[str, Any]], tools: Tools) -> Verdict:
    """Ask about each app what is allowed in it.

    Parameters
    ----------
    templates
        The apps' templates, by name.
    tools
        Where the simulator is.
    """
    apps = {name: Template(template) for name, template in templates.items()}
    actions = set().union(*(actions_of(template) for template in apps.values()))
    simulator = Simulator()
    asked: dict[str, tuple[Questions, list[tuple[Request, int]]]] = {}
    for name, template in apps.items():
        questions = Questions(template, actions)
        asked[name] = questions, [(one, simulator.add(one, questions.documents)) for one in questions.requests()]
    answers = simulator.answers(tools.package(PACKAGE))
    verdicts = [
        _verdict(name, apps[name], questions, [(request, answers[number]) for request, number in numbered])
        for name, (questions, numbered) in asked.items()
    ]
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    return Verdict(sum(verdict.checked for verdict in verdicts), findings)


def _verdict(name: str, template: Template, questions: Questions, answered: Sequence[tuple[Request, str]]) -> Verdict:
    applicable = [each for each in answered if each[1] != "NotApplicable" or each[0].allowed]
    findings = [_finding(name, template, request, answer) for request, answer in applicable if _wrong(request, answer)]
    findings += [
        Finding("policies", "untraced", name, subject, _kind(template, subject), text)
        for subject, text in questions.problems()
    ]
    return Verdict(len(applicable), findings)


def _wrong(request: Request, answer: str) -> bool:
    return answer.startswith("error") or (answer == "Allowed") != request.allowed


def _finding(app: str, template: Template, request: Request, answer: str) -> Finding:
    rule = "missing" if request.allowed else "too wide"
    message = f"{answer}: {request}"
    return Finding("policies", rule, app, request.subject, _kind(template, request.subject), message)


def _kind(template: Template, subject: str) -> str:
    part = template.parts.get(subject)
    return part.kind if part else ""
