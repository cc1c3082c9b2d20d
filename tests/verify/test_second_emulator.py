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
@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ('"aws.s3"', '"aws.s3"', None),
        ('"Object Created"', '"Object Deleted"', "delivered []"),
        ('{"prefix": "in/"}', '{"prefix": "in/"}, {"prefix": ""}', "elsewhere.jpg"),
    ],
)
def test_a_rule_that_is_changed_fails(written, instead, said):
    app = text("OwnKey")
    assert written in app
    verdict = deploy({"OwnKey": json.loads(app.replace(written, instead))}, Tools())
    assert verdict.checked > 10
    messages = [finding.message for finding in verdict.findings]
    assert (said is None and not messages) or (said is not None and said in " ".join(messages))


@pytest.mark.slow
def test_a_type_that_it_does_not_know_fails():
    app = text("Fused").replace("AWS::KMS::Key", "AWS::KMS::Unheard")
    (finding, *_) = deploy({"Fused": json.loads(app)}, Tools()).findings
    assert (finding.rule, finding.subject) == ("lacks", "AWS::KMS::Unheard")


def test_the_page_names_what_it_lacks():
    page = (ROOT / "docs" / "internals" / "development.md").read_text(encoding="utf-8")
    assert {kind for kind in LACKS if f"`{kind}`" not in page} == set()
