"""Finds what may be a face, in photographs: the first network of MTCNN, in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from case import Case, Run, f1, overlap
from faces import convolution, scaled
from pictures import photographs
from torch import nn

from cdk_inference.model import TensorSpec

SIDE, CELLS = 120, 55
SCALES = (0.2, 0.3, 0.375)
"""A window of 12 pixels is a face of 32 to 60 in photographs of 320."""

CASE = Case(
    kind="face detection (fully convolutional)",
    package="facenet-pytorch",
    file="facenet_pytorch/data/pnet.pt",
    license="MIT",
    inputs=(TensorSpec("pixels", "float32", ("batch", 3, SIDE, SIDE)),),
    outputs=(
        TensorSpec("edges", "float32", ("batch", 4, CELLS, CELLS)),
        TensorSpec("faces", "float32", ("batch", 2, CELLS, CELLS)),
    ),
    seen="windows that may be faces (F1 at half overlap)",
    bound=0.9,
    max_drop=0.01,
    factory="build",
)


class PNet(nn.Module):
    """The package's network, whose module imports torchvision."""

    def __init__(self) -> None:
        super().__init__()
        for layers in (convolution(3, 10, 3, 1), convolution(10, 16, 3, 2), convolution(16, 32, 3, 3)):
            for name, layer in layers.items():
                self.add_module(name, layer)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.prelu1(self.conv1(pixels))
        x = nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), torch.softmax(self.conv4_1(x), 1)


def build() -> nn.Module:
    return PNet()


def samples(kind: str):
    """Yield photographs in several sizes, cut to the network's."""
    for image in photographs(kind):
        for scale in SCALES:
            small = image.resize([int(side * scale) for side in image.size])
            yield {"pixels": scaled(small.crop((0, 0, SIDE, SIDE)))[None]}


def calibration():
    return samples("evaluation")


def evaluation():
    return list(samples("calibration"))[::2]


def use(run: Run) -> list[list[tuple[float, ...]]]:
    """Return the best windows of each photograph at each scale, as the package keeps them."""
    return [candidates(run(feed)) for feed in samples("calibration")]


def candidates(outputs: dict[str, np.ndarray]) -> list[tuple[float, ...]]:
    scores = outputs["faces"][0, 1]
    rows, columns = np.nonzero(scores > 0.6)
    found: list[tuple[float, ...]] = []
    for index in np.argsort(-scores[rows, columns], kind="stable"):
        row, column = rows[index], columns[index]
        box = (column * 2.0, row * 2.0, column * 2.0 + 12, row * 2.0 + 12)
        moved = tuple(np.add(box, 12 * outputs["edges"][0, :, row, column]).tolist())
        if all(overlap(moved, other) < 0.5 for other in found):
            found.append(moved)
    return found


def agreement(expected, found) -> float:
    if not any(expected):
        raise AssertionError("float32 must find something in the photographs")
    return f1(expected, found, lambda one, other: overlap(one, other) > 0.5)
