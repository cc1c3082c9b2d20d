"""The page on scale shows what is simulated."""

from __future__ import annotations

import importlib.util

from cdk_inference.simulation import DOCUMENTED

from .pages import ROOT, page

PAGE = page("scale.md")


def test_figures_and_quotas_are_those_of_the_package() -> None:
    spec = importlib.util.spec_from_file_location("outputs", ROOT / "docs" / "scripts" / "outputs.py")
    outputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outputs)
    stale = "run: python docs/scripts/outputs.py"
    # The faster rates take longer; what changes them changes these too.
    for row in outputs.scale_rows([1, 10, 100]):
        assert row in PAGE.text, stale
    rows = outputs.quota_rows()
    assert len(rows) == len(DOCUMENTED) == len(PAGE.tables("quotas").popitem()[1])
    assert "".join(rows) in PAGE.text, stale
    for code, (_, shown) in zip(PAGE.blocks("python"), PAGE.blocks("text"), strict=True):
        assert outputs.printed(code[1]) == shown, stale
