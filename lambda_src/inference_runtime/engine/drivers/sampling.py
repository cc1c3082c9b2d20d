"""Draws the next token of a sequence by its probability: the same one whenever the same is asked.

The noise of a draw is a hash. The seeds, the first tokens of the sequence, the number of the step and the token that
the noise belongs to go into it. There is no generator with a state. So a draw depends neither on the other items of a
batch, nor on what the process drew before.
"""

from __future__ import annotations

from hashlib import blake2b
from math import exp, isfinite, log
from struct import pack

from inference_runtime.engine.session import TensorInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from inference_runtime.engine.drivers.prompts import Beginnings
    from inference_runtime.tensors.tensor import Tensor

_DTYPES = {"temperature": "float32", "top_p": "float32", "seed": "int64"}
_HIGHEST = {"temperature": 100.0, "top_p": 1.0}
_HASH_BYTES = 8
_FRACTION_BITS = 52  # of a float: a number of so many bits and a half is exact, and neither 0 nor 1 as a fraction


class Sampling:
    """How tokens are drawn.

    Probabilities are those of the `top_k` likeliest tokens, raised to the power of 1 / `temperature`. The likeliest of
    them that have `top_p` together remain. Transformers cuts in the same order. At a temperature of 0, the likeliest
    token is taken.

    Parameters
    ----------
    description
        The four numbers of the model, by name: those above and `seed`. `inputs` has, by the name of a number, the input
        of the model with that of each item. One below 0 stands for the number of the model; a seed is a further one.

    Attributes
    ----------
    inputs
        The inputs of the model that it reads.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.top_k: int = description["top_k"]
        self.seed: int = description["seed"]
        self._own = {name: description[name] for name in _HIGHEST}
        self._names: Mapping[str, str] = description["inputs"]
        self.inputs = [TensorInfo(name, _DTYPES[setting], (None,)) for setting, name in self._names.items()]

    def draws(self, inputs: Mapping[str, Tensor], begun: Beginnings) -> Draws:
        """Return the draws of a batch."""
        count = len(begun.rows)
        seeds = inputs[self._names["seed"]].values() if "seed" in self._names else [0] * count
        prompts = [row[padding:] for row, padding in zip(begun.rows, begun.padding, strict=True)]
        keys = [_key(self.seed, int(seed), prompt) for seed, prompt in zip(seeds, prompts, strict=True)]
        temperatures, top_ps = (self._each(name, inputs, count) for name in _HIGHEST)
        return Draws(self.top_k, temperatures, top_ps, keys)

    def _each(self, setting: str, inputs: Mapping[str, Tensor], count: int) -> list[float]:
        """Return a number for each item, within its bounds. NaN stands for that of the model."""
        own = self._own[setting]
        if setting not in self._names:
            return [own] * count
        return [min(each, _HIGHEST[setting]) if each >= 0 else own for each in inputs[self._names[setting]].values()]


class Draws:
    """Draws tokens for the items of a batch.

    Parameters
    ----------
    top_k
        Most tokens that a draw is among.
    temperatures, top_ps, keys
        Those of each item. The noise of all draws of an item follows from its key.
    """

    def __init__(
        self, top_k: int, temperatures: Sequence[float], top_ps: Sequence[float], keys: Sequence[bytes]
    ) -> None:
        self._top_k = top_k
        self._temperatures = temperatures
        self._top_ps = top_ps
        self._keys = keys

    def place(self, item: int, step: int, places: Sequence[int], scores: Sequence[float], tokens: Sequence[int]) -> int:
        """Return the place of the token that is drawn.

        Parameters
        ----------
        item
            The number of the item.
        step
            The number of its step.
        places
            Those of the tokens that may come, the likeliest first, one at least.
        scores, tokens
            The logarithms of probabilities, and the tokens that have them.
        """
        places = places[: self._top_k]
        temperature, first = self._temperatures[item], places[0]
        if not temperature or not isfinite(scores[first]):
            return first
        logarithms = [(scores[place] - scores[first]) / temperature for place in places]
        kept = places[: likeliest(logarithms, self._top_ps[item])]
        noise = Noise(self._keys[item], step)
        noisy = [one + noise.of(tokens[place]) for one, place in zip(logarithms, kept, strict=False)]
        return kept[max(range(len(kept)), key=noisy.__getitem__)]


class Noise:
    """Independent numbers for tokens, with the distribution of Gumbel.

    Add such a number to the logarithm of each token's probability. The sum of a token is the highest one with that
    probability (Maddison et al. 2014, https://arxiv.org/abs/1411.0030).

    Parameters
    ----------
    key
        32 bytes that the numbers follow from.
    step
        The number of the step, which they follow from too.
    """

    def __init__(self, key: bytes, step: int) -> None:
        self._hash = blake2b(pack("<q", step), key=key, digest_size=_HASH_BYTES)

    def of(self, token: int) -> float:
        """Return the number of a token."""
        hashed = self._hash.copy()
        hashed.update(pack("<q", token))
        bits = int.from_bytes(hashed.digest(), "little") >> (8 * _HASH_BYTES - _FRACTION_BITS)
        return -log(-log((bits + 0.5) / 2**_FRACTION_BITS))


def likeliest(logarithms: Sequence[float], mass: float) -> int:
    """Return how many of the likeliest tokens have a share of all their probabilities, one at least.

    Parameters
    ----------
    logarithms
        Those of the probabilities, the highest first, up to a constant.
    mass
        The share, from 0 to 1.
    """
    if mass >= 1:
        return len(logarithms)
    probabilities = [exp(one) for one in logarithms]
    missing = mass * sum(probabilities)
    for count, probability in enumerate(probabilities, 1):
        missing -= probability
        if missing <= 0:
            return count
    return len(probabilities)


def _key(seed: int, item_seed: int, prompt: Sequence[int]) -> bytes:
    said = pack(f"<qq{len(prompt)}q", seed, item_seed, *prompt)
    return blake2b(said, digest_size=32).digest()
