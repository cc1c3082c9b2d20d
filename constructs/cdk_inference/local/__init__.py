"""Run a deployed app on this machine: an embedded AWS that enforces IAM, filled by the real CDK CLI.

Reads only the synthesized templates and AWS APIs: neither the constructs nor ``aws_cdk`` are imported.
"""

from __future__ import annotations

from .cloud import Cloud, LocalCloud
from .errors import LocalError
from .pipes import PipeRunner, Refusal
from .stacks import Resource, Stack
from .uploads import Outcome, Upload

__all__ = ["Cloud", "LocalCloud", "LocalError", "Outcome", "PipeRunner", "Refusal", "Resource", "Stack", "Upload"]
