"""Apps that are synthesized in the test's own process, where models are built cheaply and no second jsii starts."""

from __future__ import annotations

import functools
import json
import runpy
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest

from cdk_inference.local import aws

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OF_THE_CLI = {
    "aws:cdk:enable-path-metadata": True,
    "aws:cdk:enable-asset-metadata": True,
    "aws:cdk:version-reporting": True,
    "aws:cdk:bundling-stacks": ["**"],
    "@aws-cdk/core:failSynthOnValidationErrors": False,
    "cdk-inference:platform": aws.host_platform(),
    "cdk-inference:accelerator": "cpu",
    "cdk-inference:allow-destroy": "true",
}
"""The context that the CDK CLI, started for an embedded AWS, gives an app."""


@functools.cache
def template_validation() -> cdk.CloudFormationValidatePlugin:
    """Return CDK's own validation of templates, which tests leave out otherwise: loading it takes seconds."""
    return cdk.CloudFormationValidatePlugin()


def synthesized(
    script: Path, folder: Path, context: Mapping[str, Any] | None = None, settings: Path | None = None
) -> Path:
    """Run an app, and return a folder whose ``cdk.json`` names what that made as the app.

    Parameters
    ----------
    script
        The app.
    folder
        A new folder for the result.
    context
        More context values.
    settings
        The app's ``cdk.json``, by default the one next to it.
    """
    app, assembly = folder / "app", folder / "assembly"
    app.mkdir(parents=True)
    given = json.loads((settings or script.with_name("cdk.json")).read_text()).get("context", {})
    given |= _OF_THE_CLI | dict(context or {})
    real = cdk.App
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cdk, "App", lambda **options: real(outdir=str(assembly), context=given, **options))
        runpy.run_path(str(script), run_name="__main__")
    (app / "cdk.json").write_text(json.dumps({"app": "../assembly"}))
    return app
