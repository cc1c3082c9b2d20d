"""Templates that several tests of the documentation share."""

from __future__ import annotations

import functools
import json
import runpy
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest

from .pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return the template of an app that is run from the root of the repository, without building anything.

    It takes the app, and context for it.

    The app runs in this process, which has a Node already.
    """

    @functools.cache
    def run(app: str, **context: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("app")
        made = functools.partial(cdk.App, outdir=str(folder), context={"aws:cdk:bundling-stacks": [], **context})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            patch.setattr(cdk, "App", made)
            runpy.run_path(app)
        (template,) = folder.glob("*.template.json")
        found: dict[str, Any] = json.loads(template.read_text(encoding="utf-8"))
        return found

    return run
