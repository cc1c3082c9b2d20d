"""Finds what may be a face, in photographs of any size: the pooling of this network works for even sizes alone."""

from __future__ import annotations

from case import Case, Run
from face_candidates import build as build  # noqa: PLC0414 - the factory of this case
from face_candidates import samples

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="face detection (any size)",
    package="facenet-pytorch",
    file="facenet_pytorch/data/pnet.pt",
    license="MIT",
    inputs=(TensorSpec("pixels", "float32", ("batch", 3, "height", "width")),),
    outputs=(
        TensorSpec("edges", "float32", ("batch", 4, "rows", "columns")),
        TensorSpec("faces", "float32", ("batch", 2, "rows", "columns")),
    ),
    seen="",
    bound=0.0,
    factory="build",
    refused=r"height must be a multiple of 2; declare a fixed size",
)


def calibration():
    return samples("evaluation")


def evaluation():
    return samples("calibration")


def use(run: Run) -> list[int]:
    return []
