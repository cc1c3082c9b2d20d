"""The second emulator finds a rule that delivers nothing, and what it lacks is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verify.references import references
from verify.second_emulator import LACKS, deploy
from verify.tools import Tools

ROOT = Path(__file__).parents[2]


def text(name):
    (found,) = (reference for reference in references() if reference.name == name)
    return json.dumps(found.template)


@pytest.mark.slow
def test_what_is_changed_fails():
    """In one call, since imports take long; `make verify` deploys the app as it is."""
    app, elsewhere = text("OwnKey"), '{"prefix": "in/"}'
    assert '"Object Created"' in app
    assert elsewhere in app
    changed = {
        "event": app.replace('"Object Created"', '"Object Deleted"'),
        "prefix": app.replace(elsewhere, f'{elsewhere}, {{"prefix": ""}}'),
        "type": app.replace("AWS::KMS::Key", "AWS::KMS::Unheard"),
    }
    verdict = deploy({name: json.loads(template) for name, template in changed.items()}, Tools())
    assert verdict.checked > 3 * 10
    findings = {finding.app: finding for finding in verdict.findings if finding.rule == "problem"}
    lacks = [(finding.app, finding.subject) for finding in verdict.findings if finding.rule == "lacks"]
    assert findings.keys() - {"type"} == {"event", "prefix"}
    assert "delivered []" in findings["event"].message
    assert "elsewhere.jpg" in findings["prefix"].message
    assert lacks == [("type", "AWS::KMS::Unheard")]


def test_the_page_names_what_it_lacks():
    page = (ROOT / "docs" / "internals" / "development.md").read_text(encoding="utf-8")
    assert {kind for kind in LACKS if f"`{kind}`" not in page} == set()
