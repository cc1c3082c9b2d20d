"""The tokens that the sequences of a batch begin with: the same ones for all, or the prompt of each item."""

from __future__ import annotations

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference_runtime.tensors.tensor import Tensor


class Beginnings:
    """The first tokens of each item's sequence, all equally many.

    Prompts of different lengths are filled up on the left, whatever side the model's inputs are padded on. So the
    newest token of each sequence is in the last place, and all grow together.

    Attributes
    ----------
    rows
        The tokens of each item.
    padding
        How many tokens at the beginning of each item's row do not count.
    width
        How many tokens a row has.
    most
        The most steps of each item.
    """

    __slots__ = ("most", "padding", "rows", "width")

    def __init__(self, prompts: Sequence[Sequence[int]], most: Sequence[int]) -> None:
        self.width = max(map(len, prompts), default=0)
        self.padding = [self.width - len(prompt) for prompt in prompts]
        # Any token is good enough for what does not count. This one is surely in the vocabulary.
        self.rows = [[*[prompt[0]] * padding, *prompt] for prompt, padding in zip(prompts, self.padding, strict=True)]
        self.most = most

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, Tensor],
        start: Sequence[int],
        *,
        prompt: str | None,
        mask: str | None,
        limit: str | None,
        max_steps: int,
    ) -> Beginnings:
        """Return those of a batch.

        A prompt without a token that counts, as that of a warm-up, stands for one token, which is answered with one.

        Parameters
        ----------
        inputs
            The model's inputs.
        start
            The tokens of all sequences, if there is no prompt.
        prompt, mask
            The inputs with the tokens of each item, and with a 1 for each that counts.
        limit
            The input with the most steps of each item, of which one is always taken.
        max_steps
            Most steps of any item.

        Raises
        ------
        StageError
            If prompts and mask differ in shape.
        """
        count = len(next(iter(inputs.values())))
        limits = inputs[limit].values() if limit is not None else [max_steps] * count
        most = [max(1, min(int(each), max_steps)) for each in limits]
        if prompt is None or mask is None:
            return cls([start] * count, most)
        tokens, counts = inputs[prompt], inputs[mask]
        if tokens.shape != counts.shape:
            raise StageError(f"inputs {prompt!r} and {mask!r} must have the same shape, got {tokens} and {counts}")
        width = tokens.shape[1]
        numbers, real = tokens.values(), counts.values()
        prompts: list[list[int]] = []
        for row in range(count):
            places = range(row * width, (row + 1) * width)
            found = [numbers[place] for place in places if real[place]]
            if not found:
                found, most[row] = [numbers[places[-1]] if width else 0], 1
            prompts.append(found)
        return cls(prompts, most)
