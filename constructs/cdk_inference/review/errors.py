"""The error of reviews."""

from __future__ import annotations

from cdk_inference.errors import InferenceError


class ReviewError(InferenceError):
    """An app cannot be reviewed."""
