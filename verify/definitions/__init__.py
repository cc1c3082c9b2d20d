"""Show the definitions of state machines to validators that others wrote, and run them with the reference JSONata.

The validators are AWS's own language service, `asl-validator` and `statelint`. The scenarios run in a small interpreter
of ours. It evaluates every expression with the reference implementation of JSONata, in the version that Step Functions
names. The other side is played in `world.mjs`.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify import node
from verify.judges import Finding, Verdict
from verify.policies.flows import IMAGE
from verify.policies.template import Template
from verify.references import UNTRACED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from verify.judges import Judge
    from verify.policies.template import Part
    from verify.references import Reference
    from verify.tools import Tools

_HERE = Path(__file__).parent
_MACHINE = "AWS::StepFunctions::StateMachine"
_DOES = {
    "inference_runtime.handlers.preprocess.handler": "preprocess",
    "inference_runtime.handlers.infer.handler": "infer",
    "inference_runtime.handlers.submit.handler": "infer",
    "inference_runtime.handlers.postprocess.handler": "postprocess",
    "inference_runtime.handlers.fused.handler": "fused",
    "inference_runtime.handlers.decide.handler": "decide",
    "inference_runtime.handlers.compare_models.handler": "compare",
    IMAGE: "infer",
}
"""The behaviours of the functions' handlers, as `world.mjs` names them."""

_LOGICAL_ID = re.compile(r"\b[A-Za-z]\w*?[0-9A-F]{8}(?:[0-9a-f]{32})?\b")
"""Logical ids of the CDK, of which physical names are made here; those of versions end in one more hash."""


class Validators:
    """AWS's language service and asl-validator."""

    name = "language service, asl-validator"
    tools = frozenset({"language-service", "asl-validator"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Validate each definition, and parse each expression in it."""
        definitions = dict(_definitions(references))
        package = tools.package("asl-validator")
        questions = [{"app": app, "machine": id, "text": text} for (app, id), text in definitions.items()]
        found = node.run(_HERE / "validate.mjs", package, questions)
        findings = [
            Finding(one["tool"], one["rule"], one["app"], one["machine"], _MACHINE, one["message"]) for one in found
        ]
        return Verdict(len(definitions) * len(self.tools), findings)


class StateLint:
    """The linter of the language's specification."""

    name = "statelint"
    tools = frozenset({"statelint"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Lint each definition."""
        definitions = dict(_definitions(references))
        findings = []
        for (app, id), text in definitions.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "definition.json"
                path.write_text(text, encoding="utf-8")
                done = subprocess.run(
                    # JSON has no way to tell 2 from 2.0.
                    [tools.command("statelint"), "--ignore=FLOAT", path],
                    capture_output=True,
                    text=True,
                    check=False,
                )
            # It prints how many there are, and then one a line.
            findings += [
                Finding("statelint", _rule(line), app, id, _MACHINE, line.strip())
                for line in (done.stdout + done.stderr).splitlines()
                if line.strip() and not re.fullmatch(r"(\d+ errors?|One error):?", line.strip())
            ]
        return Verdict(len(definitions), findings)


class Scenarios:
    """The reference JSONata: every object ends as one row or as one dead letter."""

    name = "reference JSONata"
    tools = frozenset({"scenarios"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:
        """Run the workflows of the apps through the scenarios."""
        traced = [reference for reference in references if reference.name not in UNTRACED]
        return play({reference.name: reference.template for reference in traced}, tools)


JUDGES: Sequence[Judge] = (Validators(), StateLint(), Scenarios())


def play(templates: Mapping[str, Mapping[str, Any]], tools: Tools, *, only: Sequence[str] | None = None) -> Verdict:
    """Run the workflows of apps through the scenarios.

    Parameters
    ----------
    templates
        The apps' templates, by name.
    tools
        Where JSONata is.
    only
        Names of the scenarios. Default: all.
    """
    apps: dict[str, dict[str, Any]] = {}
    for name, template in templates.items():
        for app in _apps(name, Template(template)):
            apps.setdefault(_alike(app), app)  # several apps differ in other things only
    said = node.run(_HERE / "scenarios.mjs", tools.package("jsonata"), {"apps": list(apps.values()), "only": only})
    findings = [
        Finding("scenarios", "ends wrongly", one["app"], one["subject"], "", one["message"]) for one in said["findings"]
    ]
    return Verdict(said["asked"], findings)


def _apps(name: str, template: Template) -> Iterator[dict[str, Any]]:
    """Yield what the scenarios need to know of each pipeline of an app."""
    machines = {part.arn: {"definition": json.loads(_text(part))} for part in template.of(_MACHINE)}
    functions = dict(_functions(template))
    for pipe in template.of("AWS::Pipes::Pipe"):
        if pipe.properties["Target"] not in machines:  # that of the events has a table's stream and a bus
            continue
        queue = template.named(pipe.properties["Source"])
        if queue is None:
            raise ValueError(f"{name}: the queue of {pipe.id} is not in the template")
        redrive = queue.properties["RedrivePolicy"]
        dead_letters = template.named(redrive["deadLetterTargetArn"])
        entry = pipe.properties["Target"]
        reached = _reached(machines, entry)
        text = json.dumps(reached)
        tries = re.search(r"receive_count\) >= (\d+)", text)
        yield {
            "name": name,
            "entry": entry,
            "machines": reached,
            "functions": {arn: function for arn, function in functions.items() if arn in text},
            "deadLetters": dead_letters.ref if dead_letters else "",
            "redrive": redrive["maxReceiveCount"],
            "tries": int(tries[1]) if tries else redrive["maxReceiveCount"],
            "counts": "receive_count" in pipe.properties["TargetParameters"]["InputTemplate"],
        }


def _reached(machines: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """Return those of the machines that an entry starts, and those that these start."""
    found = {entry: machines[entry]}
    while more := {arn: one for arn, one in machines.items() if arn not in found and arn in json.dumps(found)}:
        found |= more
    return found


def _alike(app: Mapping[str, Any]) -> str:
    """Return a text that is the same for pipelines whose workflows differ in names and comments alone."""
    machines = {
        arn: {**machine, "definition": {**machine["definition"], "Comment": ""}}
        for arn, machine in app["machines"].items()
    }
    text = json.dumps({**app, "name": "", "machines": machines})
    names: dict[str, str] = {}
    return _LOGICAL_ID.sub(lambda found: names.setdefault(found[0], f"name-{len(names)}"), text)


def _functions(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each version and each alias does, by its ARN."""
    for target in template.of("AWS::Lambda::Version", "AWS::Lambda::Alias"):
        function = template.named(":".join(target.ref.split(":")[:7]))
        if function is not None:
            properties = function.properties
            handler = IMAGE if properties.get("PackageType") == "Image" else properties["Handler"]
            if handler in _DOES:
                yield target.ref, {"does": _DOES[handler], "timeout": properties["Timeout"]}


def _definitions(references: Sequence[Reference]) -> Iterator[tuple[tuple[str, str], str]]:
    for reference in references:
        for machine in Template(reference.template).of(_MACHINE):
            yield (reference.name, machine.id), _text(machine)


def _text(machine: Part) -> str:
    text: str = machine.properties["DefinitionString"]
    return text


def _rule(line: str) -> str:
    """Return what statelint complains of: the field and what it should be, or where, or all but the texts in quotes."""
    found = re.search(r"\.(\w+) is .* but (should be .*)", line)
    if unknown := re.search(r'Field "(\w+)" not allowed in .*\.(\w+)$', line.strip()):
        return f"{unknown[1]} not allowed in {unknown[2]}"
    return f"{found[1]} {found[2]}" if found else re.sub(r'"[^"]*"', "…", line.strip())[:100]
