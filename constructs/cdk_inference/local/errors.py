"""The errors of the local target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.errors import InferenceError

if TYPE_CHECKING:
    from pathlib import Path


class LocalError(InferenceError):
    """The embedded AWS could not do what it was asked to."""


class MissingContextError(LocalError):
    """An app looks up what its ``cdk.context.json`` does not have.

    Parameters
    ----------
    message
        The CLI's reason.
    assembly
        The cloud assembly, in which made-up values stand for it.
    """

    def __init__(self, message: str, assembly: Path) -> None:
        super().__init__(message)
        self.assembly = assembly
