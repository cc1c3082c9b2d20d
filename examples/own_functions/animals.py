"""Say whether an animal is the subject of a photograph."""

from collections.abc import Mapping

import numpy as np

from inference_runtime import Item

ANIMALS = 398  # the first classes of ImageNet, from tench to puffer, are animals
ENOUGH = 0.5


def postprocess(outputs: Mapping[str, np.ndarray], item: Item) -> dict[str, object]:
    """Add up the probabilities of all kinds of animals; `outputs` are those for one object, without the batch axis."""
    logits = outputs["logits"].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    animal = float(probabilities[:ANIMALS].sum())
    return {"animal": animal >= ENOUGH, "probability": animal, "album": item.key.rpartition("/")[0]}
