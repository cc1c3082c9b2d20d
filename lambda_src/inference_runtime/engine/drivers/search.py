"""Greedy decoding and beam search: a graph gives the likeliest next tokens, and each step appends one.

The graph itself ranks the vocabulary: it ends in a logarithm of a softmax and a TopK, which the build appends. So a
step hands some numbers for each sequence to Python, whatever the size of the vocabulary.
"""

from __future__ import annotations

from math import inf
from struct import pack

from inference_runtime.engine.drivers.graphs import Graphs
from inference_runtime.engine.session import TensorInfo
from inference_runtime.tensors.tensor import Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.drivers.graphs import Feed
    from inference_runtime.engine.interfaces import Session

NEXT_SCORES, NEXT_TOKENS = "next_scores", "next_tokens"
"""Outputs of the repeated graph, each of shape `[sequences, candidates]`: logarithms of probabilities, highest first,
and the tokens that have them."""

_LETTERS = {"int32": "i", "int64": "q"}


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
    greedy decoding.

    There are three outputs. `tokens` has the shape `[items, max_steps]`, and is filled up with the end token. `lengths`
    counts them without the end. `scores` are the sums, each divided by its number of steps to the power of
    `length_penalty`.

    Parameters
    ----------
    description
        That of `Graphs`, with more members. `start` is a list of tokens, and `end` a token. `max_steps` bounds the
        steps, and nothing ends before `min_steps`. `width` is the number of hypotheses, and `length_penalty` an
        exponent. `tokens` is the input for tokens: all of them in each step if `whole_prefix`, otherwise the new ones.
        `position` is the input for the number of tokens before the new ones, or null. `outputs` lists those wanted.
    sessions
        The session of each graph, by name.
    """

    def __init__(self, description: Mapping[str, Any], sessions: Mapping[str, Session]) -> None:
        self._tokens: str = description["tokens"]
        self._position: str | None = description["position"]
        self._graphs = Graphs(description, sessions, filter(None, (self._tokens, self._position)))
        self._start: list[int] = description["start"]
        self._end: int = description["end"]
        self._max_steps: int = description["max_steps"]
        self._min_steps: int = description["min_steps"]
        self._width: int = description["width"]
        self._length_penalty: float = description["length_penalty"]
        self._whole_prefix: bool = description["whole_prefix"]
        own = {value.name: value for value in self._graphs.step.inputs}
        self._letters = {name: _LETTERS[own[name].dtype] for name in filter(None, (self._tokens, self._position))}
        self._dtypes = {name: own[name].dtype for name in self._letters}
        self._one_by_one = own[self._tokens].shape[1] == 1
        self.inputs = self._graphs.inputs
        made = {
            "tokens": TensorInfo("tokens", "int64", (None, self._max_steps)),
            "lengths": TensorInfo("lengths", "int64", (None,)),
            "scores": TensorInfo("scores", "float32", (None,)),
        }
        self.outputs = [made[name] for name in description["outputs"]]

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
        count = len(next(iter(inputs.values())))
        feed = self._graphs.begin(self._graphs.values(inputs), count)
        beams = [[Hypothesis(row, (), 0.0, 0, row)] for row in range(count)]
        rows = [beam[0] for beam in beams]
        for number in range(self._max_steps):
            if all(hypothesis.ended for hypothesis in rows):
                break
            scores, tokens = self._step(feed, rows, number)
            places = len(tokens) // len(rows)
            for beam in beams:
                beam[:] = self._best(beam, scores, tokens, places)
            rows = self._kept(feed, beams, rows)
        best = [max(beam, key=self._final_score) for beam in beams]
        return self._outputs(best)

    def _step(self, feed: Feed, rows: Sequence[Hypothesis], number: int) -> tuple[Sequence[float], Sequence[int]]:
        """Return the scores and tokens of the likeliest continuations of each row."""
        start = self._start
        before = 0
        if self._whole_prefix:
            # A sequence that has ended is run until enough others have: it is as long as they are.
            prefixes = [[*start, *row.tokens, *[self._end] * (number - len(row.tokens))] for row in rows]
        elif number:
            prefixes = [[row.tokens[-1] if row.tokens else self._end] for row in rows]
            before = len(start) + number - 1
        else:
            prefixes = [start] * len(rows)
            if self._one_by_one:
                for before in range(len(start) - 1):
                    self._graphs.run_step(feed, self._own([start[before : before + 1]] * len(rows), before))
                prefixes, before = [start[-1:]] * len(rows), len(start) - 1
        outputs = self._graphs.run_step(feed, self._own(prefixes, before))
        return outputs[NEXT_SCORES].values(), outputs[NEXT_TOKENS].values()

    def _own(self, prefixes: Sequence[Sequence[int]], before: int) -> dict[str, Tensor]:
        count = len(prefixes)
        own = {self._tokens: self._numbers(self._tokens, (count, len(prefixes[0]) if prefixes else 1), prefixes)}
        if self._position is not None:
            own[self._position] = self._numbers(self._position, (count,), [[before]] * count)
        return own

    def _numbers(self, name: str, shape: tuple[int, ...], rows: Sequence[Sequence[int]]) -> Tensor:
        flat = [number for row in rows for number in row]
        return Tensor(self._dtypes[name], shape, pack(f"<{len(flat)}{self._letters[name]}", *flat))

    def _best(
        self, beam: Sequence[Hypothesis], scores: Sequence[float], tokens: Sequence[int], places: int
    ) -> list[Hypothesis]:
        """Return the hypotheses of an item after a step, the best first."""
        found = [hypothesis for hypothesis in beam if hypothesis.ended]
        for one in beam:
            if one.ended:
                continue
            for place in range(one.row * places, (one.row + 1) * places):
                token, score = tokens[place], scores[place]
                ended = token == self._end
                if ended and one.steps < self._min_steps:
                    continue
                total = one.score + score
                found.append(
                    Hypothesis(
                        one.item,
                        one.tokens if ended else (*one.tokens, token),
                        total if total == total else -inf,  # noqa: PLR0124 - what is not a number is never the best
                        one.steps + 1,
                        one.row,
                        ended=ended,
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
