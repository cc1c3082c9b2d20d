"""Judges of the templates: cfn-lint for now."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from verify.judges import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verify.judges import Judge
    from verify.references import Reference
    from verify.tools import Tools

REGIONS = ("us-east-1",)


class CfnLint:
    """AWS's linter of templates, against the resource specification of each Region."""

    name = "cfn-lint"
    tools = frozenset({"cfn-lint"})

    def examine(self, references: Sequence[Reference], tools: Tools) -> Verdict:  # noqa: ARG002 - it is a tool of tests
        """Lint all templates at once."""
        linter = Path(sys.executable).with_name("cfn-lint")
        files = {str(reference.path): reference for reference in references}
        command = [str(linter), "--format", "json", "--regions", *REGIONS, "--", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        findings = []
        for match in json.loads(done.stdout or "[]"):
            reference = files[match["Filename"]]
            path = match["Location"]["Path"] or []
            subject = str(path[1]) if len(path) > 1 else ""
            kind = reference.resources.get(subject, {}).get("Type", "")
            findings.append(Finding("cfn-lint", match["Rule"]["Id"], reference.name, subject, kind, match["Message"]))
        return Verdict(len(references) * len(REGIONS), findings)


JUDGES: Sequence[Judge] = (CfnLint(),)
