"""What an engine and a session are, for annotations: nothing imports this while the function runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.session import TensorInfo
    from inference_runtime.tensor import Tensor


class Engine(Protocol):
    """Runs the function's model.

    Attributes
    ----------
    inference
        Where: `cpu` or `gpu`.
    output_names
        Of the model.
    """

    inference: str
    output_names: list[str]

    def begin(self) -> None:
        """Let the time of an invocation count from here, if there is a limit."""
        ...

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's outputs by name, with as many items as the inputs have."""
        ...

    def warm_up(self) -> None:
        """Do what makes the first inference slower than others, if this process has the model."""
        ...


class Session(Protocol):
    """A model that can be run, by any number of threads at once."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]

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
