"""The error of a stage that cannot run as it should."""

from __future__ import annotations

from cdk_inference.errors import InferenceError


class StageFailedError(InferenceError):
    """The runtime cannot run a stage, or refuses what it returned: in AWS, the object becomes a dead letter.

    Parameters
    ----------
    error
        The name of the runtime's error, as the dead letter has it.
    cause
        Its text.

    Attributes
    ----------
    error, cause
        As given.
    """

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(cause)
        self.error = error
        self.cause = cause
