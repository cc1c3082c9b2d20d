"""Drawing: each token is chosen by its probability, and the same request gets the same tokens again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cdk_inference.model.recipe.checks import check, check_number, is_whole
from cdk_inference.model.recipe.drivers import Search

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_RANKED = 1_000
_MOST_TEMPERATURE = 100
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Sampling(Search):
    """Draw one token after the other by its probability, until the end token.

    Probabilities are those of the `top_k` likeliest tokens, raised to the power of 1 / `temperature`. The likeliest of
    them that have `top_p` together remain. Transformers does that with ``do_sample=True``.

    A draw follows from the seeds, the tokens that the sequence began with, and the number of the step. So a retry,
    another batch and a stream give the same text, and an item with another prompt gets other draws. The method is the
    Gumbel-max trick (Maddison et al. 2014, https://arxiv.org/abs/1411.0030), with noise that belongs to a token. So two
    models with similar probabilities, such as a quantized one and its original, mostly draw the same token (Daliri et
    al. 2024, https://arxiv.org/abs/2408.07978).

    Outputs are those of `Greedy`; ``scores`` are the logarithms of the model's own probabilities, at temperature 1 and
    among all tokens.

    Parameters
    ----------
    temperature
        From 0 to 100. Below 1, likely tokens become likelier. 0: the likeliest token is taken. Default: 1.
    top_k
        How many of the likeliest tokens a step draws from, 1 to 1,000. The graph ranks them, and Python reads them in
        each step. Default: 50.
    top_p
        Above 0, and at most 1. Default: 1, which is all of the `top_k`.
    seed
        A whole number from 0. Another seed gives other texts. Default: 0.
    temperature_input
        The input of the model with the temperature of each item, float32, ``("batch",)``. A value below 0 stands for
        `temperature`. Default: all items have that.
    top_p_input
        The same for `top_p`.
    seed_input
        The input of the model with a further seed of each item, int64, ``("batch",)``. `Preprocess.text` derives it
        from the identity of the object. Default: items with the same prompt get the same text.
    start, end, max_steps, min_steps, never, tokens, logits, whole_prefix, position, prompt, mask, limit, states
        As those of `Greedy`.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0
    temperature_input: str | None = None
    top_p_input: str | None = None
    seed_input: str | None = None
    kind: Literal["sampling"] = field(default="sampling", init=False)

    read_dtypes: ClassVar[dict[str, str]] = {
        "temperature_input": "float32",
        "top_p_input": "float32",
        "seed_input": "int64",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"a number from 0 to {_MOST_TEMPERATURE}"
        check_number("driver.temperature", self.temperature, rule, low=0, high=_MOST_TEMPERATURE)
        rule = f"a whole number from 1 to {_MOST_RANKED:,}; less likely tokens are not worth their time in Python"
        check(is_whole(self.top_k, 1, _MOST_RANKED), "driver.top_k", self.top_k, rule)
        check_number("driver.top_p", self.top_p, "a number above 0 and at most 1", above=0, high=1)
        rule = "a whole number from 0 to 2**63 - 1"
        check(is_whole(self.seed, 0, _LARGEST_SEED), "driver.seed", self.seed, rule)

    def _ranked(self) -> int:
        return self.top_k

    def describe(self, outputs: Sequence[str]) -> dict[str, Any]:
        """Return the members of ``driver.json``; see `inference_runtime.engine.drivers.sampling`."""
        given = {prop.removesuffix("_input"): getattr(self, prop) for prop in self.read_dtypes}
        sampling = {
            "temperature": float(self.temperature),
            "top_k": self.top_k,
            "top_p": float(self.top_p),
            "seed": self.seed,
            "inputs": {setting: name for setting, name in given.items() if name is not None},
        }
        return {**super().describe(outputs), "sampling": sampling}
