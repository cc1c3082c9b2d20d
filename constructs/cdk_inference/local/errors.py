"""The error of the local target."""

from __future__ import annotations

from cdk_inference.errors import InferenceError


class LocalError(InferenceError):
    """The embedded AWS could not do what it was asked to."""
