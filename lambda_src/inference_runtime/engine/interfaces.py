"""Interfaces of an engine, a session and a store of objects, for annotations: no function imports this."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.engine.session import TensorInfo
    from inference_runtime.tensors.tensor import Tensor


TextEnds: TypeAlias = "Callable[[], Callable[[int], bool]]"
"""Begins a text, and returns what tells of one token after the other whether the text ends with it."""


class Engine(Protocol):
    """Runs the function's model.

    Attributes
    ----------
    inference
        Where: `cpu` or `gpu`.
    output_names
        The outputs of the model.
    """

    inference: str
    output_names: list[str]

    def start_deadline(self, seconds: float = inf) -> None:
        """Let the time of an invocation count from here, if there is a limit.

        Parameters
        ----------
        seconds
            The time that it has left; infinite if that is not known.
        """
        ...

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's outputs by name, with as many items as the inputs have."""
        ...

    def warm_up(self) -> None:
        """Do what makes the first inference slower than others, if this process has the model."""
        ...


class Session(Protocol):
    """A model that can be run, by any number of threads at once.

    Attributes
    ----------
    inputs, outputs
        Its tensors.
    deadline
        The time, as `time.monotonic` has it, after which a session of several steps begins no further one. A
        session of a single graph has no use for it.
    """

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    deadline: float

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the model's outputs in order.

        Raises
        ------
        Exception
            With ONNX Runtime's own message, if it fails.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Nothing can be run afterwards."""
        ...


class ObjectStore(Protocol):
    """Reads and writes objects; thread-safe.

    There are two: `aws.BotocoreObjectStore` for the functions that have a client of botocore anyway, and
    `s3.client.S3Client` for the inference function, which starts without botocore.
    """

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object.

        Raises
        ------
        RetryableError
            If S3 does not give the object; the text has S3's error code.
        """
        ...

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object.

        Raises
        ------
        RetryableError
            If S3 does not take the object; the text has S3's error code.
        """
        ...
