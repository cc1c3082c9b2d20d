"""Explains answers of the model in this process, after all of them are there, and never at their expense."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import NamedTuple

from inference_runtime.engine.confidence import confidences
from inference_runtime.environment import parsed_json, required
from inference_runtime.errors import StageError
from inference_runtime.explanations import methods
from inference_runtime.explanations.cells import Cells
from inference_runtime.explanations.features import Features
from inference_runtime.explanations.room import Room
from inference_runtime.explanations.runs import EAGER, NotFiniteError, OutOfTimeError, Runs
from inference_runtime.explanations.targets import ClassProbability, Number, Similarity
from inference_runtime.explanations.tokens import Tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    from inference_runtime.explanations.interfaces import Parts, Target
    from inference_runtime.tensors.tensor import Tensor

    Inputs = Mapping[str, Tensor]
    Keep = Callable[[bytes], Mapping[str, str] | None]

MOST_KEPT_BYTES = 32 * 1024**2
"""Most bytes of inputs that are kept to be explained, so that a batch of large ones takes no more memory."""

TOKENS_FILE = "explanation_tokens.json"
"""The texts of all tokens in the package, a list by their numbers."""

_SECONDS_PER_PIXEL = 4e-6  # of a picture that is drawn: more than twice what was measured on one core
_DIGITS = 6
_MOST_REASON = 200  # characters

_TARGETS: dict[str, Callable[[Tensor], Target]] = {
    "class": ClassProbability,
    "number": Number,
    "similarity": Similarity,
}

_NO_ROOM = "the batch's response has no room for more explanations"
_NOT_KEPT = "the batch's inputs are too large to be kept"

_log = logging.getLogger(__name__)


class Explainer:
    """Explains answers as the package's `explanation.json` says.

    Parameters
    ----------
    infer
        Runs the model: takes inputs by name, and returns outputs by name.
    settings
        `when`: `always`, `on_request`, or the confidence below which an answer is explained. `from`, the confidence
        below which none is, since another model answers then. `seconds`, the most for a batch. `output` and `target`,
        what is explained. `method`, and the `masks` of RISE. `parts` and their `options`, what is hidden, and
        `baseline`, the name of what hides it. `heat_map`, whether pictures of grids are kept.
    clock
        Returns the time in seconds.

    Attributes
    ----------
    output
        The name of the output that is explained.
    seconds
        The most that the explanations of a batch may take.
    draws
        Whether pictures of grids are kept.
    clock
        As given.

    Raises
    ------
    StageError
        If the settings are not of this kind.
    """

    def __init__(
        self,
        infer: Callable[[Inputs], Mapping[str, Tensor]],
        settings: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._infer = infer
        self._texts: list[str] | None = None
        try:
            self.output: str = settings["output"]
            self.seconds: float = settings["seconds"]
            when: str | float = settings["when"]
            self._on_request = when == "on_request"
            self._below = math.inf if isinstance(when, str) else when
            self._from: float = settings.get("from", 0.0)
            self._target: Callable[[Tensor], Target] = _TARGETS[settings["target"]]
            self._method: str = settings["method"]
            self._masks: int = settings.get("masks", 0)
            self._kind: str = settings["parts"]
            self._options: dict[str, Any] = settings["options"]
            self._baseline: str = settings["baseline"]
            self.draws: bool = settings.get("heat_map", False)
        except KeyError as error:
            raise StageError(f"the settings of explanations have no {error}") from error

    @classmethod
    def from_environment(cls, infer: Callable[[Inputs], Mapping[str, Tensor]]) -> Explainer:
        """Return what the file that `EXPLANATION_SETTINGS` names describes.

        Raises
        ------
        StageError
            If it cannot be read.
        """
        return cls(infer, _read(required("EXPLANATION_SETTINGS"), dict))

    def begin(self) -> Explanations:
        """Return an empty batch."""
        return Explanations(self)

    def wanted(self, indices: Sequence[int], outputs: Mapping[str, Tensor], asked: Collection[int] | None) -> list[int]:
        """Return which rows of a batch are to be explained.

        Parameters
        ----------
        indices
            The index of each row.
        outputs
            The answers.
        asked
            The only indices that may be explained. None for all, or for none if explanations are made on request.
        """
        if asked is None and self._on_request:
            return []
        rows = [row for row, index in enumerate(indices) if asked is None or index in asked]
        if not rows or (self._from == 0 and math.isinf(self._below)):
            return rows
        sure = confidences(outputs[self.output])
        return [row for row in rows if self._from <= sure[row] < self._below]

    def explained(self, inputs: Inputs, output: Tensor, seconds: float, expected: float = 0.0) -> dict[str, Any]:
        """Return the explanation of one answer, or the reason why there is none.

        Parameters
        ----------
        inputs
            The inputs of one item by name, each with a batch axis of 1.
        output
            The answer to them.
        seconds
            How long it may take.
        expected
            How long a run on one item may take, in seconds; 0 if that is unknown.
        """
        try:
            return self._explanation(inputs, output, seconds, expected)
        except (OutOfTimeError, NotFiniteError) as error:
            return self.without(str(error))
        except Exception as error:  # an explanation must not take the answer with it
            _log.exception("an answer cannot be explained")
            return self.without(f"{type(error).__name__}: {error}")

    def _explanation(self, inputs: Inputs, output: Tensor, seconds: float, expected: float) -> dict[str, Any]:
        end = self.clock() + seconds
        target = self.target_of(output)
        parts, whole_grid, earlier = self.parts_of(inputs), True, 0
        while True:
            runs = self.runs(parts, target, end - self.clock(), expected)
            try:
                whole, weights, complete = self.weights(parts, runs)
            except OutOfTimeError:
                earlier += runs.done
                if (fewer := parts.coarser()) is None:
                    raise
                parts, whole_grid = fewer, False
            else:
                break
        return {
            "method": self._method,
            **target.described(),
            "score": round(whole, _DIGITS),
            **parts.described(weights, whole),
            "baseline": self._baseline,
            "runs": earlier + runs.done,
            **({} if complete and whole_grid else {"shortened": True}),
        }

    def runs(self, parts: Parts, target: Target, seconds: float = math.inf, expected: float = 0.0) -> Runs:
        """Return what scores coalitions of these parts, for so many seconds; the first may take as long as expected."""
        return Runs(self._infer, self.output, parts, target, seconds=seconds, clock=self.clock, expected=expected)

    def parts_of(self, inputs: Inputs) -> Parts:
        """Return the parts of an item."""
        if self._kind == "cells":
            return Cells(inputs, **self._options)
        if self._kind == "tokens":
            return Tokens(inputs, **self._options, text_of=self._text_of)
        return Features(inputs, **self._options)

    def target_of(self, output: Tensor) -> Target:
        """Return what is explained of an answer."""
        return self._target(output)

    def weights(self, parts: Parts, runs: Runs) -> tuple[float, list[float], bool]:
        """Return the score of the whole item, how much each part adds to it, and whether there was time for all runs.

        Raises
        ------
        OutOfTimeError
            If there is time for too few.
        NotFiniteError
            If the model answers with what is not a number.
        """
        (whole,) = runs.all([0])  # which says how long a run takes, too
        if self._method == "rise":
            return whole, *methods.rise(parts.count, runs, masks=self._masks)
        if self._method == "shapley":
            return whole, *methods.shapley(parts.count, runs, whole)
        return whole, *methods.one_by_one(parts.count, runs, whole)

    def drawn(self, inputs: Inputs, explanation: Mapping[str, Any]) -> bytes:
        """Return the grid of an explanation as a PNG of the size of the picture that it explains."""
        from inference_runtime.explanations.heat_map import heat_map  # noqa: PLC0415 - only on request

        return heat_map(explanation["grid"], *self._size(inputs))

    def drawing_seconds(self, inputs: Inputs) -> float:
        """Return how long `drawn` may take."""
        height, width = self._size(inputs)
        return height * width * _SECONDS_PER_PIXEL

    def _size(self, inputs: Inputs) -> tuple[int, int]:
        sizes = dict(zip(self._options["layout"], inputs[self._options["input"]].shape[1:], strict=True))
        return sizes["H"], sizes["W"]

    def without(self, reason: str) -> dict[str, Any]:
        """Return what a row says if there is no explanation."""
        return {"method": self._method, "reason": reason[:_MOST_REASON]}

    def _text_of(self, token: int) -> str:
        if self._texts is None:
            self._texts = _read(TOKENS_FILE, list)
        return self._texts[token] if 0 <= token < len(self._texts) else f"[{token}]"


class _Kept(NamedTuple):
    """An item that is to be explained.

    Attributes
    ----------
    item
        The item's index.
    inputs, output
        The item's.
    expected
        How long a run of the model on it may take, in seconds; 0 if that is unknown.
    """

    item: int
    inputs: Inputs
    output: Tensor
    expected: float


class Explanations:
    """The answers of one invocation that are to be explained, and their inputs until then.

    Parameters
    ----------
    explainer
        Explains them.
    """

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer
        self._kept: list[_Kept] = []
        self._size = 0
        self._too_large: list[int] = []

    def add(
        self,
        indices: Sequence[int],
        inputs: Inputs,
        outputs: Mapping[str, Tensor],
        asked: Collection[int] | None = None,
        *,
        seconds: float = 0.0,
    ) -> None:
        """Keep what is to be explained of a batch.

        Parameters
        ----------
        indices, outputs, asked
            As those of `Explainer.wanted`.
        inputs
            The inputs of the batch by name.
        seconds
            How long the model took for the batch; 0 if that is unknown.
        """
        # A run of one item may be as much slower. An explanation takes more runs than that, even quick ones.
        expected = seconds / len(indices) * min(EAGER, len(indices))
        for row in self._explainer.wanted(indices, outputs, asked):
            size = sum([tensor.nbytes // len(tensor) for tensor in inputs.values()])
            if self._size + size > MOST_KEPT_BYTES:
                self._too_large.append(indices[row])
                continue
            self._size += size
            one = {name: tensor.take([row]) for name, tensor in inputs.items()}
            self._kept.append(_Kept(indices[row], one, outputs[self._explainer.output].take([row]), expected))

    def made(
        self,
        seconds: float,
        keep: Keep | None = None,
        most_bytes: float = math.inf,
    ) -> dict[int, dict[str, Any]]:
        """Return the explanations by index.

        Parameters
        ----------
        seconds
            How long they may take together; at most as long as the settings say. It is shared among them.
        keep
            Keeps a picture, and returns its `bucket` and `key`, or None if there is no time for that. None if there is
            no place for pictures.
        most_bytes
            The most that they may take as JSON, as `grouped` returns them. Once they do, the other items get the
            reason. If not even that fits, there are none.
        """
        explainer = self._explainer
        draws = keep is not None and explainer.draws
        no_room, not_kept = explainer.without(_NO_ROOM), explainer.without(_NOT_KEPT)
        room = Room(most_bytes, [*(each.item for each in self._kept), *self._too_large], draws=draws)
        if not (room.takes(no_room) and room.takes(not_kept)):
            return {}
        found = dict.fromkeys(self._too_large, not_kept) | {each.item: no_room for each in self._kept}
        end = explainer.clock() + min(seconds, explainer.seconds)
        for number, each in enumerate(self._kept):
            if not (likely := room.most(len(self._kept) - number)):
                break
            share = max(0.0, end - explainer.clock()) / likely
            said = explainer.explained(each.inputs, each.output, share, each.expected)
            if not room.takes(said):
                break
            found[each.item] = said
        if draws and keep is not None:
            self._draw(found, keep, end)
        return found

    def _draw(self, found: dict[int, dict[str, Any]], keep: Keep, end: float) -> None:
        """Keep the pictures of grids, as long as there is time: they are less than any explanation."""
        for index, inputs, _, _ in self._kept:
            if "grid" not in found[index]:
                continue
            if self._explainer.clock() + self._explainer.drawing_seconds(inputs) >= end:
                return
            try:
                kept = keep(self._explainer.drawn(inputs, found[index]))
            except Exception:  # the grid says the same, and S3 is likely to fail for the next one too
                _log.exception("the pictures of explanations are not kept")
                return
            if kept is None:
                return
            found[index]["heat_map"] = f"s3://{kept['bucket']}/{kept['key']}"


def _read(name: str, kind: type) -> Any:  # noqa: ANN401 - the caller names the type
    path = Path(required("LAMBDA_TASK_ROOT"), name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StageError(f"cannot read {path}: {error}") from error
    return parsed_json(text, str(path), kind)
