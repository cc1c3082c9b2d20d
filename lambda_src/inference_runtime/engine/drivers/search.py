"""Greedy decoding, beam search and drawing: a graph gives the likeliest next tokens, and each step appends one.

The graph itself ranks the vocabulary: it ends in a logarithm of a softmax and a TopK, which the build appends. So a
step hands some numbers for each sequence to Python, whatever the size of the vocabulary.
"""

from __future__ import annotations

from math import inf
from struct import pack

from inference_runtime.engine.drivers.graphs import Graphs
from inference_runtime.engine.drivers.prompts import Beginnings
from inference_runtime.engine.session import TensorInfo
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.drivers.graphs import Feed
    from inference_runtime.engine.drivers.sampling import Draws, Sampling
    from inference_runtime.engine.interfaces import Session, TextEnds

NEXT_SCORES, NEXT_TOKENS = "next_scores", "next_tokens"
"""Outputs of the repeated graph, each of shape `[sequences, candidates]`: logarithms of probabilities, highest first,
and the tokens that have them."""

_LETTERS = {"int32": "i", "int64": "q"}
_OF_STEPS = 2  # axes of positions, where each new token has its own


class Hypothesis:
    """A sequence of tokens that a search considers.

    Attributes
    ----------
    item
        The number of the item that it answers.
    tokens
        The tokens after those of the start, without the end.
    score
        The sum of the logarithms of their probabilities, that of the end included.
    steps
        How many steps made it.
    ended
        Whether it has ended.
    row
        Its place in the batch of the graph.
    """

    __slots__ = ("ended", "item", "row", "score", "steps", "tokens")

    def __init__(
        self, item: int, tokens: tuple[int, ...], score: float, steps: int, row: int, *, ended: bool = False
    ) -> None:
        self.item = item
        self.tokens = tokens
        self.score = score
        self.steps = steps
        self.row = row
        self.ended = ended


_ENDED = Hypothesis(-1, (), 0.0, 0, 0, ended=True)
"""Holds the row of what has ended."""


class Search:
    """Looks for the likeliest sequence of each item; a session of several graphs.

    Each item has up to `width` hypotheses. In each step, the best of all continuations stay, next to hypotheses that
    have ended already, by the sums of their logarithms. It is over when all have ended. With a width of 1, this is
    greedy decoding; or the only continuation is one that was drawn.

    There are three outputs. `tokens` has the shape `[items, max_steps]`, and is filled up with the end token. `lengths`
    counts them without the end. `scores` are the sums, each divided by its number of steps to the power of
    `length_penalty`.

    Parameters
    ----------
    description
        That of `Graphs`, with more members. `start` is a list of tokens, and `end` a token, or a list of those of which
        each ends a sequence. `max_steps` bounds the steps, and nothing ends before `min_steps`. `width` is the number
        of hypotheses, and `length_penalty` an exponent. `tokens` is the input for tokens: all of them in each step if
        `whole_prefix`, otherwise the new ones. `position` is the input for the number of tokens before the new ones, or
        for the place of each new one, or null. `outputs` lists those wanted. If sequences begin with prompts, `prompt`
        is the input of the model that has them. `mask` is the input of the model, and of the last graph, that says
        which tokens count. `limit` is the input of the model for the most steps of each item, if it has one.
        `sampling` describes a `Sampling`, if tokens are drawn.
    sessions
        The session of each graph, by name.

    Attributes
    ----------
    text_ends
        Where the texts of the items of the next run end, besides at an end token; without beams. Items after these have
        no further end.
    """

    text_ends: Sequence[TextEnds | None] = ()

    def __init__(self, description: Mapping[str, Any], sessions: Mapping[str, Session]) -> None:
        self._tokens: str = description["tokens"]
        self._position: str | None = description["position"]
        self._prompt: str | None = description.get("prompt")
        self._mask: str | None = description.get("mask")
        self._limit: str | None = description.get("limit")
        self._sampling = _sampling(description.get("sampling"))
        made = [name for name in (self._tokens, self._position, self._mask) if name is not None]
        self._graphs = Graphs(description, sessions, made)
        self._start: list[int] = description["start"]
        ends = description["end"]
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._end: int = ends[0] if isinstance(ends, list) else ends
        self._max_steps: int = description["max_steps"]
        self._min_steps: int = description["min_steps"]
        self._width: int = description["width"]
        self._length_penalty: float = description["length_penalty"]
        self._whole_prefix: bool = description["whole_prefix"]
        own = {value.name: value for value in self._graphs.step.inputs}
        self._dtypes = {name: own[name].dtype for name in made}
        self._one_by_one = own[self._tokens].shape[1] == 1
        self._places_each = self._position is not None and len(own[self._position].shape) == _OF_STEPS
        self.inputs = self._with_prompts(self._graphs.inputs)
        given = {
            "tokens": TensorInfo("tokens", "int64", (None, self._max_steps)),
            "lengths": TensorInfo("lengths", "int64", (None,)),
            "scores": TensorInfo("scores", "float32", (None,)),
        }
        self.outputs = [given[name] for name in description["outputs"]]

    def _with_prompts(self, inputs: Sequence[TensorInfo]) -> list[TensorInfo]:
        """Return the inputs of the model: those of its graphs, and those that the driver itself reads."""
        read = {value.name: value for value in inputs}
        for name, shape in ((self._prompt, (None, None)), (self._mask, (None, None)), (self._limit, (None,))):
            if name is not None:
                read.setdefault(name, TensorInfo(name, "int64", shape))
        for value in () if self._sampling is None else self._sampling.inputs:
            read.setdefault(value.name, value)
        return list(read.values())

    @property
    def deadline(self) -> float:
        """The time, as `time.monotonic` has it, after which no step begins."""
        return self._graphs.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._graphs.deadline = value

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs in order.

        Raises
        ------
        LittleTimeError
            If the time is over before the sequences have ended.
        Exception
            Any error of a graph's session.
        """
        beams: list[list[Hypothesis]] = []
        for beams in self._steps(inputs):  # noqa: B007 - those of the last step count
            pass
        return self._outputs([max(beam, key=self._final_score) for beam in beams])

    def stream(self, inputs: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
        """Yield the answer to a single item so far, after each step.

        Raises
        ------
        StageError
            If there are several items, or several hypotheses of each, of which the best one may still change.
        LittleTimeError
            If the time is over before the sequence has ended.
        Exception
            Any error of a graph's session.
        """
        if self._width > 1 or len(next(iter(inputs.values()))) != 1:
            raise StageError("a stream must be of a single item, and not of a beam search")
        steps = self._steps(inputs)
        next(steps)
        for ((hypothesis,),) in steps:
            yield hypothesis

    def _steps(self, inputs: Mapping[str, Tensor]) -> Iterator[list[list[Hypothesis]]]:
        """Yield the hypotheses of each item before the first step, and after each of them; always the same lists."""
        begun = Beginnings.of(
            inputs, self._start, prompt=self._prompt, mask=self._mask, limit=self._limit, max_steps=self._max_steps
        )
        count = len(begun.rows)
        draws = None if self._sampling is None else self._sampling.draws(inputs, begun)
        feed = self._graphs.begin(self._graphs.values(inputs), count)
        ends = [None if begin is None else begin() for begin in self.text_ends[: count if self._width == 1 else 0]]
        beams = [[Hypothesis(row, (), 0.0, 0, row)] for row in range(count)]
        rows = [beam[0] for beam in beams]
        yield beams
        for number in range(self._max_steps):
            if all(hypothesis.ended for hypothesis in rows):
                break
            scores, tokens = self._step(feed, begun, rows, number)
            places = len(tokens) // len(rows)
            for beam, most in zip(beams, begun.most, strict=True):
                beam[:] = self._best(beam, scores, tokens, places, most, draws)
            for (one,), ends_with in zip(beams, ends, strict=False):
                if ends_with is not None and not one.ended:
                    one.ended = ends_with(one.tokens[-1])
            rows = self._kept(feed, beams, rows)
            yield beams

    def _step(
        self, feed: Feed, begun: Beginnings, rows: Sequence[Hypothesis], number: int
    ) -> tuple[Sequence[float], Sequence[int]]:
        """Return the scores and tokens of the likeliest continuations of each row."""
        starts = [begun.rows[row.item] for row in rows]
        before = 0
        if self._whole_prefix:
            # A sequence that has ended is run until enough others have: it is as long as they are.
            prefixes = [
                [*start, *row.tokens, *[self._end] * (number - len(row.tokens))]
                for start, row in zip(starts, rows, strict=True)
            ]
        elif number:
            prefixes = [[row.tokens[-1] if row.tokens else self._end] for row in rows]
            before = begun.width + number - 1
        else:
            prefixes = starts
            if self._one_by_one:
                for before in range(begun.width - 1):
                    column = [start[before : before + 1] for start in starts]
                    self._graphs.run_step(feed, self._own(column, begun, rows, before))
                prefixes, before = [start[-1:] for start in starts], begun.width - 1
        outputs = self._graphs.run_step(feed, self._own(prefixes, begun, rows, before))
        return outputs[NEXT_SCORES].values(), outputs[NEXT_TOKENS].values()

    def _own(
        self, prefixes: Sequence[Sequence[int]], begun: Beginnings, rows: Sequence[Hypothesis], before: int
    ) -> dict[str, Tensor]:
        """Return what the driver makes for the last graph: tokens, their positions, and which of all tokens count."""
        own = {self._tokens: self._numbers(self._tokens, prefixes)}
        after = before + len(prefixes[0])
        padding = [begun.padding[row.item] for row in rows]
        if self._position is not None and self._places_each:
            places = [[max(0, place - pad) for place in range(before, after)] for pad in padding]
            own[self._position] = self._numbers(self._position, places)
        elif self._position is not None:
            before_each = self._numbers(self._position, [[before]] * len(prefixes))
            own[self._position] = Tensor(before_each.dtype, before_each.shape[:1], before_each.data)
        if self._mask is not None:
            own[self._mask] = self._numbers(self._mask, [[*[0] * pad, *[1] * (after - pad)] for pad in padding])
        return own

    def _numbers(self, name: str, rows: Sequence[Sequence[int]]) -> Tensor:
        dtype, flat = self._dtypes[name], [number for row in rows for number in row]
        return Tensor(dtype, (len(rows), len(rows[0])), pack(f"<{len(flat)}{_LETTERS[dtype]}", *flat))

    def _best(
        self,
        beam: Sequence[Hypothesis],
        scores: Sequence[float],
        tokens: Sequence[int],
        places: int,
        most: int,
        draws: Draws | None,
    ) -> list[Hypothesis]:
        """Return the hypotheses of an item after a step, the best first; one of as many steps as it may have ends."""
        found = [hypothesis for hypothesis in beam if hypothesis.ended]
        for one in beam:
            if one.ended:
                continue
            allowed: Sequence[int] = range(one.row * places, (one.row + 1) * places)
            if one.steps < self._min_steps:
                allowed = [place for place in allowed if tokens[place] not in self._ends]
            if draws is not None:
                allowed = [draws.place(one.item, one.steps, allowed, scores, tokens)]
            for place in allowed:
                token = tokens[place]
                said_end = token in self._ends
                total = one.score + scores[place]
                found.append(
                    Hypothesis(
                        one.item,
                        one.tokens if said_end else (*one.tokens, token),
                        total if total == total else -inf,  # noqa: PLR0124 - what is not a number is never the best
                        one.steps + 1,
                        one.row,
                        ended=said_end or one.steps + 1 >= most,
                    )
                )
        found.sort(key=_score, reverse=True)
        return found[: self._width]

    def _kept(self, feed: Feed, beams: Sequence[Sequence[Hypothesis]], rows: list[Hypothesis]) -> list[Hypothesis]:
        """Return the hypotheses that the graph is run on next, after bringing their states into that order.

        That copies the states. So what has ended stays in its row until half of the rows have, if there is nothing else
        to bring into order.
        """
        going = [hypothesis for beam in beams for hypothesis in beam if not hypothesis.ended]
        if self._width == 1 and 2 * len(going) > len(rows):
            after = [_ENDED] * len(rows)
            for hypothesis in going:
                after[hypothesis.row] = hypothesis
            return after
        order = [hypothesis.row for hypothesis in going]
        if going and order != list(range(len(rows))):
            owners_change = [one.item for one in going] != [one.item for one in rows]
            feed.take(order, owners_change=owners_change)
        for row, hypothesis in enumerate(going):
            hypothesis.row = row
        return going

    def _final_score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score / float(max(hypothesis.steps, 1) ** self._length_penalty)

    def _outputs(self, best: Sequence[Hypothesis]) -> list[Tensor]:
        count = len(best)
        filled = [token for one in best for token in (*one.tokens, *[self._end] * (self._max_steps - len(one.tokens)))]
        made = {
            "tokens": Tensor("int64", (count, self._max_steps), pack(f"<{len(filled)}q", *filled)),
            "lengths": Tensor("int64", (count,), pack(f"<{count}q", *[len(one.tokens) for one in best])),
            "scores": Tensor("float32", (count,), pack(f"<{count}f", *map(self._final_score, best))),
        }
        return [made[value.name] for value in self.outputs]

    def close(self) -> None:
        """Close the sessions of all graphs."""
        self._graphs.close()


def _score(hypothesis: Hypothesis) -> float:
    return hypothesis.score


def _sampling(description: Mapping[str, Any] | None) -> Sampling | None:
    if description is None:
        return None
    from inference_runtime.engine.drivers.sampling import Sampling  # noqa: PLC0415 - for models that draw alone

    return Sampling(description)
