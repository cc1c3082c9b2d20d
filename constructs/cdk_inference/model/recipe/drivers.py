"""How several graphs run as one model: greedy decoding, beam search, or a state that is carried along.

`cdk_inference.model.recipe.sampling` has the driver that draws tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cdk_inference.model.recipe.checks import check, check_number, is_whole
from cdk_inference.model.recipe.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLLECTED = ("each", "joined", "last")
NEXT_SCORES, NEXT_TOKENS = "next_scores", "next_tokens"
"""The outputs that the build gives a decoder instead of its logits."""

_MOST_STEPS = 10_000
_MOST_WIDTH = 64
_LOGITS = (2, 3)  # axes: sequences, perhaps steps, and the vocabulary
_PAIR = 2  # axes: sequences and steps


@dataclass(frozen=True, kw_only=True)
class Search:
    """The common part of drivers that append one token after the other."""

    read_dtypes: ClassVar[dict[str, str]] = {}
    """The type of each further input of the model that a driver reads for each item, by the prop that names it."""

    start: int | tuple[int, ...] = ()
    end: int | tuple[int, ...]
    max_steps: int
    min_steps: int = 0
    never: tuple[int, ...] = ()
    tokens: str = "tokens"
    logits: str = "logits"
    whole_prefix: bool = False
    position: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    mask: str | None = None
    limit: str | None = None

    def __post_init__(self) -> None:
        starts = (self.start,) if isinstance(self.start, int) else self.start
        given = _are_tokens(starts) and (starts or self.prompt is not None)
        check(given, "driver.start", self.start, "a token from 0, or several as a tuple")
        check(not starts or self.prompt is None, "driver.start", self.start, "left out with a prompt")
        object.__setattr__(self, "start", tuple(starts))
        check(self.ends and _are_tokens(self.ends), "driver.end", self.end, "a token from 0, or several as a tuple")
        if not isinstance(self.end, int):
            object.__setattr__(self, "end", tuple(self.end))
        check(_are_tokens(self.never), "driver.never", self.never, "tokens from 0, a tuple")
        object.__setattr__(self, "never", tuple(self.never))
        allowed = not set(self.ends).intersection(self.never)
        check(allowed, "driver.never", self.never, f"without the end token {', '.join(map(str, self.ends))}")
        rule = f"a whole number from 1 to {_MOST_STEPS:,}"
        check(is_whole(self.max_steps, 1, _MOST_STEPS), "driver.max_steps", self.max_steps, rule)
        least = is_whole(self.min_steps, 0, self.max_steps - 1)
        check(least, "driver.min_steps", self.min_steps, "a whole number from 0 to below max_steps")
        names = [self.tokens, self.logits, *([] if self.position is None else [self.position])]
        check(_are_names(names), "driver.tokens/logits/position", names, "names of tensors of the last graph")
        read = [name for name, _, _ in self._read()]
        named = _are_names(read) and len(set(read)) == len(read)
        check(named, self._read_props(), read, "different names of inputs of the model")
        both = (self.prompt is None) is (self.mask is None)
        check(both, "driver.mask", self.mask, "given with a prompt, and left out without one")
        _check_states(self.states)
        check(
            not (self.whole_prefix and self.position is not None),
            "driver.position",
            self.position,
            "None with whole_prefix; the prefix begins at 0 in each step",
        )

    def _beam(self) -> tuple[int, float]:
        """Return how many hypotheses are kept, and the power of the steps that scores are divided by."""
        return 1, 0.0

    def _ranked(self) -> int:
        """Return how many of the likeliest tokens a step may choose from."""
        return self._beam()[0]

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens of which each ends a sequence."""
        return tuple(self.end) if isinstance(self.end, list | tuple) else (self.end,)

    @property
    def own_inputs(self) -> tuple[str, ...]:
        """The inputs of the last graph that the driver makes."""
        return tuple(name for name in (self.tokens, self.position, self.mask) if name is not None)

    def check_inputs(self, inputs: Mapping[str, TensorSpec]) -> tuple[str, ...]:
        """Compare what the driver reads with the inputs of the model, and return the names of what it reads.

        Raises
        ------
        ModelBuildError
            If the model has no such input.
        """
        for name, dtype, axes in self._read():
            found = inputs.get(name)
            fits = found is not None and found.dtype == dtype and len(found.shape) == axes
            shape = "('batch', 'tokens')" if axes == _PAIR else "('batch',)"
            check(fits, self._read_props(), name, f"an input of the model of {dtype} and shape {shape}")
        return tuple(name for name, _, _ in self._read())

    def _read(self) -> list[tuple[str, str, int]]:
        """Return name, type and number of axes of each input of the model that the driver itself reads."""
        own = [(getattr(self, prop), dtype, 1) for prop, dtype in self.read_dtypes.items()]
        found = [(self.prompt, "int64", _PAIR), (self.mask, "int64", _PAIR), (self.limit, "int64", 1), *own]
        return [(name, dtype, axes) for name, dtype, axes in found if name is not None]

    def _read_props(self) -> str:
        return "driver." + "/".join(("prompt", "mask", "limit", *self.read_dtypes))

    def check_step(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        """Compare what the driver needs with what the last graph has.

        Raises
        ------
        ModelBuildError
            If they do not fit.
        """
        tokens = inputs.get(self.tokens)
        fits = tokens is not None and tokens.dtype in ("int32", "int64") and len(tokens.shape) == _PAIR
        rule = "an input of the last graph of int64 or int32 and shape ('batch', 'steps')"
        check(fits, "driver.tokens", self.tokens, rule)
        if self.position is not None:
            place = inputs.get(self.position)
            fits = place is not None and self.position != self.tokens and place.dtype in ("int32", "int64")
            fits = fits and len(place.shape) in ((_PAIR,) if self.prompt else (1, _PAIR))  # type: ignore[union-attr]
            shapes = "('batch', 'steps')" if self.prompt else "('batch',) or ('batch', 'steps')"
            rule = f"an input of the last graph of int64 or int32 and shape {shapes}"
            check(fits, "driver.position", self.position, rule)
        if self.mask is not None:
            fits = isinstance(tokens.shape[1], str)  # type: ignore[union-attr] # checked above
            check(fits, "driver.tokens", self.tokens, "of a symbolic number of steps; a prompt is read in one")
            mask = inputs.get(self.mask)
            other = self.mask not in (self.tokens, self.position)
            fits = mask is not None and other and mask.dtype in ("int32", "int64") and len(mask.shape) == _PAIR
            rule = "an input of the last graph of int64 or int32 and shape ('batch', 'past + steps')"
            check(fits, "driver.mask", self.mask, rule)
        logits = outputs.get(self.logits)
        fits = logits is not None and logits.dtype.startswith("float") and len(logits.shape) in _LOGITS
        rule = "an output of the last graph of floats and shape ('batch', vocabulary) or ('batch', 'steps', vocabulary)"
        check(fits and isinstance(logits.shape[-1], int), "driver.logits", self.logits, rule)  # type: ignore[union-attr]
        known = int(logits.shape[-1])  # type: ignore[union-attr]
        highest = max((*self.start, *self.ends, *self.never))  # type: ignore[misc]
        check(highest < known, "driver.start/end/never", highest, f"below {known}, the size of the vocabulary")
        out = {*self.ends, *self.never}
        check(len(out) < known, "driver.end/never", sorted(out), f"fewer than all {known} tokens of the vocabulary")

    def candidates(self, vocabulary: int) -> int:
        """Return how many continuations of a sequence each step must rank."""
        allowed = vocabulary - len(set(self.never))
        return min(allowed, self._ranked() + (len(self.ends) if self.min_steps else 0))

    def gives(self, step: Sequence[TensorSpec]) -> dict[str, TensorSpec]:  # noqa: ARG002 - every driver is asked alike
        """Return what the model gives, by name."""
        specs = (
            TensorSpec("tokens", "int64", ("batch", self.max_steps)),
            TensorSpec("lengths", "int64", ("batch",)),
            TensorSpec("scores", "float32", ("batch",)),
        )
        return {spec.name: spec for spec in specs}

    def describe(self, outputs: Sequence[str]) -> dict[str, Any]:
        """Return the members of ``driver.json``; see `inference_runtime.engine.drivers.search`."""
        width, length_penalty = self._beam()
        # Left out if there are none, so that locks of models without prompts hold.
        read = {"prompt": self.prompt, "mask": self.mask, "limit": self.limit}
        return {
            "kind": "search",
            "start": list(self.start),  # type: ignore[arg-type]
            "end": self.end if isinstance(self.end, int) else list(self.end),
            "max_steps": self.max_steps,
            "min_steps": self.min_steps,
            "width": width,
            "length_penalty": length_penalty,
            "tokens": self.tokens,
            "whole_prefix": self.whole_prefix,
            "position": self.position,
            "states": dict(self.states),
            "outputs": list(outputs),
            **{name: value for name, value in read.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class Greedy(Search):
    """Append the likeliest token, step by step, until the end token.

    Outputs of the model are ``tokens``, int64 of shape ``("batch", max_steps)``, filled up with the end token;
    ``lengths``, int64, without the end; and ``scores``, float32: the logarithm of the probability of the sequence.

    Parameters
    ----------
    start
        The token, or tokens, that every sequence begins with; they are not part of the output. Left out with a
        ``prompt``.
    end
        The token that ends a sequence, or several as a tuple. The first one fills up what is shorter than others.
    max_steps
        Most tokens of an answer: it bounds the time that an item takes.
    min_steps
        The end does not come before this many tokens. Default: 0.
    never
        Tokens that are not chosen, such as that for padding.
    tokens
        The input of the last graph for tokens, int64 or int32, ``("batch", "steps")``. With steps of a fixed 1, it gets
        one token at a time.
    logits
        The output of the last graph with a score for each token of the vocabulary, on its last axis. If there are
        several steps, the last one counts.
    whole_prefix
        Whether the graph gets all tokens in each step, or the new ones alone, since its states know the others.
    position
        The input for the number of tokens that came before, ``("batch",)``, or for the place of each new token,
        ``("batch", "steps")``, if the graph has one.
    prompt
        The input of the model with the tokens that each sequence begins with, int64, ``("batch", "tokens")``. The last
        graph reads all of a prompt in one step. Default: every sequence begins with ``start``.
    mask
        The name of two inputs, one of the model and one of the last graph, that are 1 for each token that counts. That
        of the model has the shape of the prompt, which may be padded on either side. That of the graph is
        ``("batch", "past + steps")``: what is padded is on the left there. Needed with a prompt.
    limit
        The input of the model for the most tokens of each answer, int64, ``("batch",)``, below ``max_steps``. Default:
        all may have ``max_steps``.
    states
        Outputs of the last graph that become its inputs in the next step, such as caches of keys and values: input by
        output. A state begins with the value of its name, of the model's inputs or of a graph before. If there is none,
        it begins with zeros, with its free sizes as 0.
    """

    kind: Literal["greedy"] = field(default="greedy", init=False)


@dataclass(frozen=True, kw_only=True)
class Beam(Search):
    """Keep the likeliest few sequences in each step, and give the best one.

    A hypothesis that has ended stays among them as long as it is likely enough (Sutskever et al. 2014,
    https://arxiv.org/abs/1409.3215). Outputs are those of `Greedy`; ``scores`` are divided by the number of steps to
    the power of ``length_penalty`` (without the constants of Wu et al. 2016, https://arxiv.org/abs/1609.08144).

    Parameters
    ----------
    width
        How many hypotheses are kept, from 2. Each is a row in the batch of the last graph. Default: 4.
    length_penalty
        0: the likeliest sequence wins, which favours short ones. 1: the mean of its tokens counts. Default: 1.
    start, end, max_steps, min_steps, never, tokens, logits, whole_prefix, position, prompt, mask, limit, states
        As those of `Greedy`.
    """

    width: int = 4
    length_penalty: float = 1.0
    kind: Literal["beam"] = field(default="beam", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"a whole number from 2 to {_MOST_WIDTH}; use Greedy(...) for 1"
        check(is_whole(self.width, 2, _MOST_WIDTH), "driver.width", self.width, rule)
        check_number("driver.length_penalty", self.length_penalty, "a number from 0 to 4", low=0, high=4)

    def _beam(self) -> tuple[int, float]:
        return self.width, float(self.length_penalty)


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """Run the last graph on one part of an input after the other, with a state that it carries along.

    Parameters
    ----------
    over
        The input that is cut into parts, along its second axis. Its size there is free in the recipe, and ``chunk``,
        with ``context``, in the graph.
    chunk
        The size of a part; the last one is filled up with zeros.
    states
        As those of `Greedy`.
    outputs
        How each output is collected: ``"each"`` along a new second axis, one for each part; ``"joined"`` along the
        second axis that it has; ``"last"``, that of the last part alone. Those that are not named are dropped.
    context
        How much of what came before its part the graph sees again, zeros at the beginning. Default: 0.
    """

    over: str
    chunk: int
    states: dict[str, str]
    outputs: dict[str, str]
    context: int = 0
    kind: Literal["recurrent"] = field(default="recurrent", init=False)

    def __post_init__(self) -> None:
        check(_are_names([self.over]), "driver.over", self.over, "the name of an input of the last graph")
        check(is_whole(self.chunk, 1, 2**31), "driver.chunk", self.chunk, "a whole number from 1")
        check(is_whole(self.context, 0, 2**31), "driver.context", self.context, "a whole number from 0")
        _check_states(self.states)
        known = isinstance(self.outputs, dict) and self.outputs and _are_names(list(self.outputs))
        rule = f"a dict from outputs of the last graph to one of {', '.join(COLLECTED)}"
        collected = known and all(how in COLLECTED for how in self.outputs.values())
        check(collected, "driver.outputs", self.outputs, rule)
        both = sorted(set(self.states).intersection(self.outputs))
        check(not both, "driver.outputs", both, "outputs that are no states")

    @property
    def own_inputs(self) -> tuple[str, ...]:
        """The inputs of the last graph that the driver makes: it cuts one, and makes none."""
        return ()

    def check_inputs(self, inputs: Mapping[str, TensorSpec]) -> tuple[str, ...]:  # noqa: ARG002 - every driver is asked alike
        """Return the names of the inputs of the model that the driver itself reads: none."""
        return ()

    def check_step(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        """Compare what the driver needs with what the last graph has.

        Raises
        ------
        ModelBuildError
            If they do not fit.
        """
        cut = inputs.get(self.over)
        size = self.chunk + self.context
        fits = cut is not None and len(cut.shape) >= _PAIR and cut.shape[1] == size
        rule = f"an input of the last graph with {size} as the size of its second axis, which is chunk and context"
        check(fits, "driver.over", self.over, rule)
        for name, how in self.outputs.items():
            spec = outputs.get(name)
            fits = spec is not None and (how != "joined" or len(spec.shape) >= _PAIR)
            check(fits, "driver.outputs", name, "an output of the last graph, with a second axis if it is joined")

    def gives(self, step: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
        """Return what the model gives, by name."""
        given = {spec.name: spec for spec in step}
        found = {}
        for name, how in self.outputs.items():
            batch, *rest = given[name].shape
            shapes = {"last": (batch, *rest), "each": (batch, "parts", *rest), "joined": (batch, "parts", *rest[1:])}
            found[name] = TensorSpec(name, given[name].dtype, shapes[how])
        return found

    def describe(self, outputs: Sequence[str]) -> dict[str, Any]:
        """Return the members of ``driver.json``; see `inference_runtime.engine.drivers.recurrent`."""
        return {
            "kind": "recurrent",
            "over": self.over,
            "chunk": self.chunk,
            "context": self.context,
            "states": dict(self.states),
            "outputs": {name: self.outputs[name] for name in outputs},
        }


def _check_states(states: object) -> None:
    named = isinstance(states, dict) and _are_names([*states, *states.values()])
    distinct = named and len(set(states.values())) == len(states)  # type: ignore[attr-defined,arg-type]
    check(distinct, "driver.states", states, "a dict from outputs of the last graph to inputs of it, each once")


def _are_names(names: Sequence[object]) -> bool:
    return all(isinstance(name, str) and name for name in names)


def _are_tokens(tokens: object) -> bool:
    return isinstance(tokens, list | tuple) and all(is_whole(token, 0, 2**31 - 1) for token in tokens)
