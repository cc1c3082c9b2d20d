"""Run the packs of the installed cdk-nag over the reference apps: `python -m verify.nag VERSION FOLDER REPORT`.

The report is a list of ``[rule, path, acknowledged, message]``.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cdk_nag
from aws_cdk import Aspects, Validations

from verify.references import app
from verify.templates import PACKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_cdk import App

_ACKNOWLEDGED = "Suppressed"


def third(made: App, folder: Path) -> Iterator[list[Any]]:
    """Run cdk-nag 3, whose packs are plugins."""
    Validations.of(made).add_plugins(*[getattr(cdk_nag, name)(made) for name in PACKS])
    _synth(made)
    report = json.loads((folder / "validation-report.json").read_text(encoding="utf-8"))
    for plugin in report["pluginReports"]:
        for kind in ("violations", "suppressedViolations"):
            for violation in plugin.get(kind, ()):
                if plugin["pluginName"].partition(" ")[0] in ("CloudFormation", "Construct"):
                    continue  # CDK's own checks
                for construct in violation["violatingConstructs"]:
                    path = construct["constructPath"]
                    yield [violation["ruleName"], path, kind != "violations", violation["description"]]


def second(made: App, folder: Path) -> Iterator[list[Any]]:
    """Run cdk-nag 2, whose packs are aspects."""
    formats = [getattr(cdk_nag, "NagReportFormat").JSON]  # noqa: B009 - the third version has none
    for name in PACKS:
        Aspects.of(made).add(getattr(cdk_nag, name)(reports=True, report_formats=formats))
    _synth(made)
    for path in sorted(folder.glob("*-NagReport.json")):
        for line in json.loads(path.read_text(encoding="utf-8"))["lines"]:
            if line["compliance"] in ("Non-Compliant", _ACKNOWLEDGED, "UNKNOWN"):
                acknowledged = line["compliance"] == _ACKNOWLEDGED
                yield [line["ruleId"], line["resourceId"], acknowledged, line["ruleInfo"]]


def _synth(made: App) -> None:
    try:
        made.synth()
    except RuntimeError as error:  # findings, which the report has too
        if "ValidationFailed" not in str(error):
            raise


def main() -> None:
    """Write the report."""
    version, folder, out = sys.argv[1:]
    installed = metadata.version("cdk-nag").partition(".")[0]
    if installed != version:
        sys.exit(f"cdk-nag must be of version {version}, got {installed}")
    synthesized = Path(folder) / "cdk.out"
    run = {"2": second, "3": third}[version]
    Path(out).write_text(json.dumps(list(run(app(synthesized), synthesized))), encoding="utf-8")


if __name__ == "__main__":
    main()
