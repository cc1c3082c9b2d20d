"""The error of new projects."""

from __future__ import annotations

from cdk_inference.errors import InferenceError


class InitError(InferenceError):
    """A project cannot be written."""
