"""The picture of the dashboard is drawn from what a pipeline synthesizes."""

from __future__ import annotations

import importlib.util
from xml.etree import ElementTree

from .pages import ROOT


def test_the_picture_is_that_of_the_dashboard() -> None:
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "docs" / "scripts" / "dashboard.py")
    dashboard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dashboard)
    drawn = dashboard.picture(dashboard.widgets())
    assert dashboard.PICTURE.read_text("utf-8") == drawn, "run: python docs/scripts/dashboard.py"
    root = ElementTree.fromstring(drawn)  # noqa: S314 (our own picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Objects in 5 minutes", "p99", "Drift", "USD for 1,000 objects"} <= set(texts)
