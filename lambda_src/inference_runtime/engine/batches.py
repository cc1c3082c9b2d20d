"""Runs any number of items in as few runs as allowed: the batch is halved until it fits the memory."""

from __future__ import annotations

import logging

from inference_runtime.errors import OutOfMemoryError
from inference_runtime.tensors.tensor import concatenate, zeros

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from inference_runtime.tensors.tensor import Tensor

    Shapes = tuple[tuple[int, ...], ...]

_log = logging.getLogger(__name__)


class Batches:
    """Splits items into runs, and puts the outputs together again.

    A batch that does not fit the memory is halved, and items of that shape are run that many at a time from then on.
    The memory of a run depends on nothing else, so that trying more again would only fail again.

    Parameters
    ----------
    run
        Runs the model on a batch, and returns its outputs in order. Raises `OutOfMemoryError`.
    names
        The names of the outputs.
    max_batch_size
        Most items in one run; None for no limit but the memory.
    fixed_batch_size
        How many items each run must have, if the model was exported so: the last run is filled up by repetition.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, Tensor], int], list[Tensor]],
        names: list[str],
        *,
        max_batch_size: int | None,
        fixed_batch_size: int | None = None,
    ) -> None:
        self._run = run
        self._names = names
        self._max_batch_size = max_batch_size
        self._fixed_batch_size = fixed_batch_size
        self._limits: dict[Shapes, int] = {}

    def limit(self, inputs: Mapping[str, Tensor]) -> int | None:
        """Return the most items like these that one run takes, or None if that is not known."""
        if self._fixed_batch_size:
            return self._fixed_batch_size
        return self._limits.get(_shapes(inputs), self._max_batch_size)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name, with as many items as the inputs have.

        Raises
        ------
        OutOfMemoryError
            If a single item, or the model's fixed batch, does not fit.
        """
        runs = list(self.runs(inputs))
        return {name: concatenate([outputs[name] for outputs in runs]) for name in self._names}

    def runs(self, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield the outputs of one run after the other, one run at least, by name: together those of all items.

        Raises
        ------
        OutOfMemoryError
            As `run` does.
        """
        total = len(next(iter(inputs.values())))
        if total == 0:
            yield dict(zip(self._names, self._run_empty(inputs), strict=True))
        done = 0
        while done < total:
            limit = self.limit(inputs)
            count = min(limit or total, total - done)
            chunk = {name: tensor.rows(done, done + count) for name, tensor in inputs.items()}
            try:
                outputs = self._run_padded(chunk, count)
            except OutOfMemoryError as error:
                if self._fixed_batch_size or count == 1:
                    raise OutOfMemoryError(
                        f"{count} items of {_described(chunk)} do not fit the memory: {error}"
                    ) from error
                self._limits[_shapes(inputs)] = count // 2
                _log.warning("%d items of %s do not fit the memory: %d at a time", count, _described(chunk), count // 2)
            else:
                done += count
                yield dict(zip(self._names, outputs, strict=True))

    def _run_padded(self, chunk: dict[str, Tensor], count: int) -> list[Tensor]:
        if not self._fixed_batch_size or count == self._fixed_batch_size:
            return self._run(chunk, count)
        missing = self._fixed_batch_size - count
        filled = {name: t.take([*range(count), *[count - 1] * missing]) for name, t in chunk.items()}
        return [output.rows(0, count) for output in self._run(filled, self._fixed_batch_size)]

    def _run_empty(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs for no items: the model knows their shapes."""
        if not (count := self._fixed_batch_size):
            return self._run(inputs, 0)
        blank = {name: zeros(tensor.dtype, (count, *tensor.shape[1:])) for name, tensor in inputs.items()}
        return [output.rows(0, 0) for output in self._run(blank, count)]


def _shapes(inputs: Mapping[str, Tensor]) -> Shapes:
    return tuple(tensor.shape[1:] for tensor in inputs.values())


def _described(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tensor.dtype} {list(tensor.shape[1:])}" for name, tensor in inputs.items())
