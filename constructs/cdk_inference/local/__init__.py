"""Run a deployed app on this machine: an embedded AWS that enforces IAM, filled by the real CDK CLI.

Reads only the synthesized templates and AWS APIs: neither the constructs nor ``aws_cdk`` are imported.
"""

from __future__ import annotations

try:
    from cdk_inference.local.cloud import Cloud, LocalCloud
    from cdk_inference.local.emulator.pipe_role import Refusal
    from cdk_inference.local.emulator.pipes import PipeRunner
    from cdk_inference.local.errors import LocalError
    from cdk_inference.local.stacks import Resource, Stack
    from cdk_inference.local.uploads import Outcome, Upload
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'the local target needs the "local" extra: pip install "cdk-inference[local]" ({error})', name=error.name
    ) from error

__all__ = ["Cloud", "LocalCloud", "LocalError", "Outcome", "PipeRunner", "Refusal", "Resource", "Stack", "Upload"]
