"""Ask a policy simulator that nobody here wrote about every edge of an app: what is allowed, and what is denied.

`verify.policies.flows` is a table of what each part is for, and therefore of what must be allowed. It is not read from
the policies, so that a missing grant shows as well as one that is too wide. `verify.policies.requests` makes the
requests, and `simulate.mjs` answers them with `@cloud-copilot/iam-simulate`.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify import node
from verify.judges import Finding, Verdict
from verify.policies.requests import Questions, Request, actions_of
from verify.policies.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verify.judges import Judge
    from verify.references import Reference
    from verify.tools import Tools

_SIMULATE = Path(__file__).with_name("simulate.mjs")
_PROCESSES = 2


class PolicySimulator:
    """Ask a policy simulator what each role and each service may do, and may not."""

    name = "iam-simulate"
    tools = frozenset({"policies"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Ask about each app what is allowed in it, with the actions of all apps."""
        return ask({reference.name: reference.template for reference in references}, tools)


JUDGES: Sequence[Judge] = (PolicySimulator(),)


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
    simulator = _Simulator()
    asked: dict[str, tuple[Questions, list[tuple[Request, int]]]] = {}
    for name, template in apps.items():
        questions = Questions(template, actions)
        asked[name] = questions, [(one, simulator.add(one, questions.documents)) for one in questions.requests()]
    answers = simulator.answers(tools.package("@cloud-copilot/iam-simulate"))
    verdicts = [
        _verdict(name, apps[name], questions, [(request, answers[number]) for request, number in numbered])
        for name, (questions, numbered) in asked.items()
    ]
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    return Verdict(sum(verdict.checked for verdict in verdicts), findings)


class _Simulator:
    """Asks the simulator everything once: most questions of an app are those of another, about the same policies."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str], str] = {}
        self._questions: dict[str, int] = {}

    def add(self, request: Request, documents: Mapping[str, Any]) -> int:
        """Take a question, and return the number of its answer."""
        *what, identity, policy = request.question()
        names = [self._name("identity", documents[name]) for name in identity]
        text = json.dumps([*what, names, policy and self._name("resource", documents[policy])])
        return self._questions.setdefault(text, len(self._questions))

    def answers(self, package: Path) -> list[str]:
        """Return all answers, by number."""
        documents = {name: json.loads(text) for (_, text), name in self._documents.items()}
        texts = list(self._questions)

        def answered(part: list[str]) -> list[str]:
            requests = [json.loads(text) for text in part]
            found: list[str] = node.run(_SIMULATE, package, {"documents": documents, "requests": requests})
            return found

        size = -(-len(texts) // _PROCESSES) or 1
        with ThreadPoolExecutor(_PROCESSES) as pool:
            parts = pool.map(answered, [texts[start : start + size] for start in range(0, len(texts), size)])
        return [answer for part in parts for answer in part]

    def _name(self, kind: str, document: Any) -> str:
        return self._documents.setdefault((kind, json.dumps(document)), f"{kind} {len(self._documents)}")


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
