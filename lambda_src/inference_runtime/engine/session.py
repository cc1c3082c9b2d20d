"""The inputs and outputs of a model, and the threads of its session."""

from __future__ import annotations

import os

MB_PER_VCPU = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html

_NEARLY = 0.95  # the most memory, 10,240 MB, is said to be 6 vCPUs, and would be 5.8


class TensorInfo:
    """An input or output of a model.

    Attributes
    ----------
    name
        Its name.
    dtype
        As `Tensor` has it; ONNX Runtime's own name, such as `seq(tensor(float))`, for what is not a tensor.
    shape
        Dimensions; a string or None is a free one.
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, dtype: str, shape: tuple[int | str | None, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape


class Threads:
    """How a model computes.

    Attributes
    ----------
    count
        How many threads do.
    spin
        Whether they wait busily for each other, between two operators. That is faster where each has a vCPU, and where
        they share less it takes the time of those that compute.
    """

    __slots__ = ("count", "spin")

    def __init__(self, count: int, *, spin: bool) -> None:
        self.count = count
        self.spin = spin

    def without_spin(self) -> Threads:
        """Return as many threads that never wait busily."""
        return Threads(self.count, spin=False)

    @classmethod
    def of_function(cls) -> Threads:
        """Return as many threads as the function has vCPUs, by its memory."""
        # A container on another service than Lambda has the machine for itself, or says what it may use of it.
        cpus = int(os.environ.get("MODEL_THREADS", "0")) or os.cpu_count() or 1
        memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0"))
        if not memory:
            return cls(cpus, spin=True)
        count = max(1, min(round(memory / MB_PER_VCPU), cpus))
        return cls(count, spin=memory >= _NEARLY * count * MB_PER_VCPU)
