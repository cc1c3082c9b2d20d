"""Places eyes, nose and mouth in a face: the last network of MTCNN, in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from case import Case, Run, batches
from faces import convolution, crops
from torch import nn

from cdk_inference.model import TensorSpec

SIDE = 48

CASE = Case(
    kind="face landmarks (convolutional)",
    package="facenet-pytorch",
    file="facenet_pytorch/data/onet.pt",
    license="MIT",
    inputs=(TensorSpec("pixels", "float32", ("batch", 3, SIDE, SIDE)),),
    outputs=(
        TensorSpec("edges", "float32", ("batch", 4)),
        TensorSpec("landmarks", "float32", ("batch", 10)),
        TensorSpec("faces", "float32", ("batch", 2)),
    ),
    seen="face or not, and landmarks within a twentieth of it",
    bound=0.95,
    factory="build",
)


class ONet(nn.Module):
    """The package's network, whose module imports torchvision."""

    def __init__(self) -> None:
        super().__init__()
        for layers in (
            convolution(3, 32, 3, 1),
            convolution(32, 64, 3, 2),
            convolution(64, 64, 3, 3),
            convolution(64, 128, 2, 4),
        ):
            for name, layer in layers.items():
                self.add_module(name, layer)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = (nn.Linear(256, count) for count in (2, 4, 10))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = nn.functional.max_pool2d(self.prelu1(self.conv1(pixels)), 3, 2, ceil_mode=True)
        x = nn.functional.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = nn.functional.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return self.dense6_2(x), self.dense6_3(x), torch.softmax(self.dense6_1(x), 1)


def build() -> nn.Module:
    return ONet()


def samples(seed: int, name: str, count: int) -> list[dict[str, np.ndarray]]:
    return [{"pixels": pixels} for pixels in crops(seed, name, count, SIDE)]


def calibration():
    return batches(samples(1, "hopper.jpg", 48), 8)


def evaluation():
    return batches(samples(2, "hopper.jpg", 64), 8)


def use(run: Run) -> list[tuple[bool, np.ndarray]]:
    answers = [run(batch) for batch in batches(samples(3, "astronaut.jpg", 80), 1)]
    return [(bool(answer["faces"][0, 1] > 0.7), answer["landmarks"][0]) for answer in answers]


def agreement(expected, found) -> float:
    same = [
        one[0] == other[0] and (not one[0] or np.abs(one[1] - other[1]).max() < 0.05)
        for one, other in zip(expected, found, strict=True)
    ]
    return float(np.mean(same))


def right(answers: list[tuple[bool, np.ndarray]]) -> list[bool]:
    """Tell where a face is told from something else."""
    return [face == (number % 2 == 0) for number, (face, _) in enumerate(answers)]
