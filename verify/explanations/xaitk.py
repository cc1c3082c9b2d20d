"""A model and masks as xaitk-saliency takes them; only there once the packages are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from smqtk_classifier.interfaces.classify_image import ClassifyImage
from xaitk_saliency import PerturbImage
from xaitk_saliency.impls.gen_classifier_conf_sal.rise_scoring import RISEScoring
from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.occlusion_based import PerturbationOcclusion
from xaitk_saliency.impls.gen_image_classifier_blackbox_sal.slidingwindow import SlidingWindowStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Classifier(ClassifyImage):  # type: ignore[misc] # it has no types
    """A function of pictures that returns the probabilities of classes.

    Parameters
    ----------
    probabilities
        Takes pictures (number, height, width), and returns (number, classes).
    classes
        How many classes there are.
    """

    def __init__(self, probabilities: Callable[[Array], Array], classes: int) -> None:
        self._probabilities, self._classes = probabilities, classes

    def get_labels(self) -> Sequence[int]:
        """Return the numbers of the classes."""
        return range(self._classes)

    def classify_images(self, img_iter: Iterable[Array]) -> Iterator[dict[int, float]]:
        """Yield the probability of each class for each picture."""
        for image in img_iter:
            yield dict(enumerate(self._probabilities(image[None])[0].tolist()))

    def get_config(self) -> dict[str, Any]:
        """Return nothing: it is never written into a file."""
        return {}


class GivenMasks(PerturbImage):  # type: ignore[misc] # it has no types
    """Masks that are given, instead of random ones.

    Parameters
    ----------
    masks
        (number, height, width), true where a pixel is shown.
    """

    def __init__(self, masks: Array) -> None:
        self._masks = masks

    def perturb(self, ref_image: Array) -> Array:  # noqa: ARG002 - its interface
        """Return the masks."""
        return self._masks

    def get_config(self) -> dict[str, Any]:
        """Return nothing: it is never written into a file."""
        return {}


def sliding_window(classifier: Classifier, image: Array, side: int, fill: int) -> Array:
    """Return the saliency of each pixel for each class by windows that lie next to each other, scaled to 1."""
    stack = SlidingWindowStack(window_size=(side, side), stride=(side, side))
    stack.fill = fill
    return np.asarray(stack.generate(image, classifier))


def rise(classifier: Classifier, image: Array, masks: Array, fill: int) -> Array:
    """Return the saliency of each pixel for each class by these masks, which show half of all, scaled to 1."""
    generator = PerturbationOcclusion(GivenMasks(masks), RISEScoring(p1=0.5))
    generator.fill = fill
    return np.asarray(generator.generate(image, classifier))
