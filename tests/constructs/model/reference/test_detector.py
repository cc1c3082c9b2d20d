"""A detector with the end of a YOLO: boxes in pixels, joined with scores of which few are high."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import build_model

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
from cdk_inference.model import Evaluation, ModelRecipe, Provenance, StaticInt8, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="detector",
    source=TorchModule("factory.py:build"),
    inputs=(TensorSpec("x", "float32", ("batch", 3, 64, 64)),),
    outputs=(TensorSpec("found", "float32", ("batch", 9, 256)),),
    precision=StaticInt8("percentile", 99.9),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.05),
    provenance=Provenance(license="CC0-1.0", origin="random numbers"),
)
"""
FACTORY = """
import torch

class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.box = torch.nn.Conv2d(32, 4, 1)
        self.score = torch.nn.Conv2d(32, 5, 1)
        for conv, scale in ((self.first, 0.27), (self.second, 0.083), (self.box, 0.25), (self.score, 1.0)):
            torch.nn.init.normal_(conv.weight, std=scale)
            torch.nn.init.normal_(conv.bias, std=0.1)
        torch.nn.init.constant_(self.score.bias, -12)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        boxes = (self.box(x).flatten(2) + torch.arange(256)) * 4
        return torch.cat((boxes, torch.sigmoid(self.score(x).flatten(2))), 1)

def build():
    torch.manual_seed(0)
    return Detector()
"""
DATA = """
import numpy as np

def scenes(seed):
    random = np.random.default_rng(seed)
    for _ in range(4):
        found = random.normal(0, 0.3, (16, 3, 64, 64)).astype(np.float32)
        for image in found:
            y, x = random.integers(2, 50, 2)
            image[:, y : y + 10, x : x + 10] += random.uniform(-4, 4, (3, 1, 1))
        yield {"x": found}

def calibration():
    return scenes(1)

def evaluation():
    return scenes(2)
"""


@pytest.mark.slow
def test_a_detector_whose_scores_are_lost_fails_its_gate(tmp_path: Path) -> None:
    """A percentile that clips what is rare, as finds are, and boxes that hide it from a cosine over both."""
    for name, text in {"recipe": RECIPE, "factory": FACTORY, "data": DATA}.items():
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ModelBuildError, match=r"static int8, percentile 99\.9: cosine 0\.\d+ is below the gate 0\.95"):
        build_model(tmp_path / "recipe.py", cache=tmp_path / "cache")
    by_boxes = RECIPE.replace('metric="cosine"', 'metric="box_f1", head=YoloHead()').replace(
        "import Evaluation", "import YoloHead, Evaluation"
    )
    (tmp_path / "recipe.py").write_text(by_boxes)
    with pytest.raises(ModelBuildError, match=r"static int8, percentile 99\.9: box_f1 0.* is below the gate 0\.95"):
        build_model(tmp_path / "recipe.py", cache=tmp_path / "cache")
    sound = by_boxes.replace('StaticInt8("percentile", 99.9)', 'StaticInt8("minmax")')
    (tmp_path / "recipe.py").write_text(sound)
    built = build_model(tmp_path / "recipe.py", cache=tmp_path / "cache")
    assert built.manifest.metric is not None
    assert built.manifest.metric.quantized > 0.95
    assert built.manifest.metric.name == "box_f1"
    card = built.card.read_text("utf-8")
    assert "boxes are green, those of float32 white" in card
