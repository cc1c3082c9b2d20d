"""The gallery is what its page says: each recipe has a line, those of CI are built, and their stages work."""

from __future__ import annotations

import json
import runpy
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from verify.gallery.__main__ import line as line_of
from verify.gallery.examples import EXAMPLES, GALLERY, IN_CI, Example

from cdk_inference import LambdaPlatform
from cdk_inference.model import build_model

from .pages import ROOT, page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUILT = [example for example in EXAMPLES if example.builder == IN_CI]


def test_each_recipe_has_a_line_and_says_who_builds_it() -> None:
    found = {str(path.relative_to(GALLERY)) for path in GALLERY.rglob("*.py") if "\nRECIPE = " in path.read_text()}
    assert found == {example.recipe for example in EXAMPLES}
    lines = [line for line in page("gallery.md").text.splitlines() if line.startswith("| ")]
    assert len(lines) == len(EXAMPLES) + 1
    for example, line in zip(EXAMPLES, lines[1:], strict=True):
        assert line.startswith(f"| {example.kind} | {example.source} | [{example.recipe}]")
        assert line.endswith(f" | {example.builder} |")


@pytest.mark.slow
@pytest.mark.parametrize("example", BUILT, ids=lambda example: example.recipe)
def test_a_recipe_of_ci_is_built_and_gives_a_line(example: Example) -> None:
    built = build_model(GALLERY / example.recipe, architecture=LambdaPlatform.host().architecture)
    line = line_of(example, json.loads(built.report.read_text("utf-8")))
    assert f"| {built.manifest.precision.replace('_', ' ')}" in line
    assert line.count(" | ") == 6


@pytest.mark.slow
def test_a_parcel_with_its_category_and_without_its_weight_is_scored(
    synthesized: Callable[[str], dict[str, Any]],
) -> None:
    from inference_runtime.stages.builtin.tabular import json_preprocessor

    resources = synthesized("examples/gallery/parcels/app.py")["Resources"].values()
    variables = [
        each["Properties"]["Environment"]["Variables"] for each in resources if each["Type"] == "AWS::Lambda::Function"
    ]
    (options,) = (json.loads(each["STAGE_OPTIONS"]) for each in variables if "fields" in each.get("STAGE_OPTIONS", ""))
    parcel = json_preprocessor(**options)(b'{"distance_km": 900, "weekday": 6, "carrier": "turtle"}', None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(parcel, np.array([900, np.nan, 6, 2], np.float32))
    for model in ("forest", "boosting"):
        session = ort.InferenceSession(GALLERY / "parcels" / f"{model}.onnx")
        (scores,) = session.run(["probabilities"], {"parcels": parcel[None]})
        assert scores[0, 1] > 0.9, model


@pytest.mark.slow
def test_the_app_with_masks_synthesizes(synthesized: Callable[[str], dict[str, Any]]) -> None:
    resources = synthesized("examples/gallery/segmentation/app.py")["Resources"].values()
    functions = [each["Properties"] for each in resources if each["Type"] == "AWS::Lambda::Function"]
    variables = [function["Environment"]["Variables"] for function in functions]
    stages = [each["STAGE_FUNCTION"].rpartition(":")[2] for each in variables if "STAGE_FUNCTION" in each]
    assert stages == ["image_preprocessor", "segmentation_postprocessor"]


def test_a_photograph_keeps_where_the_network_looked_and_another_file_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference_runtime import RejectItem

    monkeypatch.syspath_prepend(str(GALLERY / "detection"))
    preprocess = runpy.run_path(str(GALLERY / "detection" / "preprocess.py"))["preprocess"]
    sys.modules.pop("pixels")
    photograph: Path = ROOT / "model_assets" / "photographs" / "chelsea.png"
    made = preprocess(photograph.read_bytes(), None)
    assert made["images"].shape == (3, 320, 320)
    assert made["picture"] == {"width": 451, "height": 300, "input": [320, 320], "region": [0, 0, 451, 451]}
    assert not made["images"][:, -100:].any()  # below the photograph
    with pytest.raises(RejectItem):
        preprocess(b"no photograph", None)
    assert len((GALLERY / "detection" / "labels.txt").read_text().splitlines()) == 18


def test_boxes_are_drawn_where_they_are() -> None:
    draw = runpy.run_path(str(GALLERY / "detection" / "draw.py"))["draw"]
    find = {"label": "face", "class_index": 0, "score": 0.9, "box": [10.5, 40, 60, 90]}
    before = Image.new("L", (100, 100))
    after = np.asarray(draw(before, [find]))
    rows, columns = np.nonzero(after.any(axis=2))
    assert after.shape == (100, 100, 3)
    assert (columns.min(), rows.max()) == (10, 90)
    assert not after[60:80, 20:50].any()
    assert not np.asarray(draw(before, [])).any()
