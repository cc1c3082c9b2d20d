"""Names, types and shapes of a model's inputs and outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from cdk_inference.model.recipe.checks import check

DTYPES = (
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)

STRING = "string"
"""The type of texts, of which only inputs may be."""

_MAX_NAME = 200
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*( \+ [A-Za-z_][A-Za-z0-9_]*)*")

PLUS = " + "
"""Joins the symbolic sizes whose sum a size is, such as that of a mask over a cache and what is new."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a model input or output.

    Parameters
    ----------
    name
        Name of the tensor in the ONNX graph, printable.
    dtype
        NumPy name of the element type, such as ``"uint8"``; or ``"string"`` for an input of texts.
    shape
        Sizes by axis; a string is a symbolic size, such as ``("batch", 224, 224, 3)``. Symbolic sizes
        with the same name are equal. A size may be the sum of others: ``("batch", "past + steps")``.
    nan
        Whether NaN is among the values of a float input: it stands for a missing one, as for boosted trees.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    nan: bool = False

    def __post_init__(self) -> None:
        printable = isinstance(self.name, str) and self.name.isprintable() and 0 < len(self.name) <= _MAX_NAME
        check(printable, "name", self.name, f"printable, with 1 to {_MAX_NAME} characters")
        dtypes = (*DTYPES, STRING)
        check(self.dtype in dtypes, f"{self.name}.dtype", self.dtype, f"one of {', '.join(dtypes)}")
        truth = isinstance(self.nan, bool) and not (self.nan and not self.dtype.startswith("float"))
        check(truth, f"{self.name}.nan", self.nan, f"False for {self.dtype}, True or False for floats")
        shape = self.shape
        sizes = isinstance(shape, list | tuple) and all(
            (isinstance(s, str) and _SYMBOL.fullmatch(s)) or (isinstance(s, int) and not isinstance(s, bool) and s > 0)
            for s in shape
        )
        expected = "positive sizes or symbolic names, batch first"
        check(sizes, f"{self.name}.shape", shape, expected)
        scalar = "a scalar that never changes can be a constant of the graph"
        check(len(shape) > 0, f"{self.name}.shape", shape, f"{expected}; {scalar}")
        object.__setattr__(self, "shape", tuple(shape))

    def for_runtime(self) -> dict[str, object]:
        """Return what the runtime of the functions reads, by which it checks what preprocessing makes."""
        said: dict[str, object] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return {**said, "nan": True} if self.nan else said


class Declared(Protocol):
    """The inputs and outputs of a graph, in their order: those of a recipe, or of one of its graphs."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs."""
        ...


def check_specs(kind: str, specs: object) -> tuple[TensorSpec, ...]:
    """Check a list of tensors, one at least, and return it as a tuple."""
    tensors = isinstance(specs, list | tuple) and all(isinstance(spec, TensorSpec) for spec in specs)
    check(tensors and specs, kind, specs, "one or more TensorSpec")
    return tuple(specs)  # type: ignore[arg-type]


def check_batch_first(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Refuse tensors that have their batch on another axis, or none."""
    first = inputs[0]
    for specs, otherwise in (
        (inputs, "make one that never changes a constant of the graph"),
        (outputs, "leave it out"),
    ):
        for spec in specs:
            size, batch = spec.shape[0], first.shape[0]
            fits = isinstance(batch, str) if isinstance(size, str) else size == batch
            expected = f"batch first, like '{first.name}' {first.shape}; export the model so, or {otherwise}"
            check(fits, f"{spec.name}.shape", spec.shape, expected)
