"""A whole pipeline that runs in this process."""

from __future__ import annotations

import gc
import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import aws_cdk as cdk
import numpy as np
import onnx
import pytest
from onnx.parser import parse_model
from PIL import Image

from cdk_inference import (
    DirectPipeline,
    Explain,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    PropError,
    Route,
    Routing,
)
from cdk_inference.model import TensorSpec
from cdk_inference.model.records.manifest import Distribution
from cdk_inference.testing import InProcessPipeline, LocalModel, run_postprocess

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.model import BuiltModel

    Write = Callable[[str, str], Path]

DIGITS = Path(__file__).parents[3] / "model_assets" / "digits_cnn" / "recipe.py"


def ones(data: bytes, item: Any) -> Any:
    return np.ones((8, 8), np.uint8)


def test_files_of_a_described_stage_are_there_as_long_as_it_is(digits: BuiltModel, write: Write) -> None:
    labels = write("labels.txt", "\n".join(f"a number of a long name: {number}" for number in range(10)))
    pipeline = InProcessPipeline(
        model=digits, preprocess=ones, postprocess=Postprocess.classification(labels=labels, top=1)
    )
    folder = pipeline._after.task_root
    assert folder is not None
    assert (folder / "labels.txt").exists()
    assert "a number of a long name" in (pipeline.run(b"x").result.prediction or {})["label"]
    del pipeline
    gc.collect()
    assert not folder.exists()


def test_the_pipeline_of_an_app_runs_without_bundling_anything(write: Write) -> None:
    entry = write("eights.py", "import numpy as np\ndef preprocess(d, i): return np.full((8, 8), d[0], np.uint8)")
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=DIGITS)
    assert model.path is None
    preprocess = Preprocess.function(f"{entry}:preprocess")
    labels = DIGITS.parent / "labels.txt"
    pipeline = InferencePipeline(
        stack,
        "Pipeline",
        model=model,
        preprocess=preprocess,
        postprocess=Postprocess.classification(labels=labels),
        max_object_size=cdk.Size.bytes(3),
        stage_timeout=cdk.Duration.seconds(20),
    )
    local = InProcessPipeline.of(pipeline)
    run = local.run(b"\x07", key="seven")
    assert (run.result.status, run.result.model_version) == ("SUCCEEDED", local.model.version)
    assert run.result.model_version == LocalModel.of(DIGITS).version != "unbuilt"
    prediction = run.result.prediction
    assert prediction is not None
    assert prediction["class_index"] == int(run.outputs["logits"].argmax())
    assert prediction["label"] in labels.read_text().splitlines()
    assert run.preprocessed.inputs["images"].tolist() == [[7] * 8] * 8
    rejected = local.run(b"four")
    assert (rejected.result.status, rejected.outputs) == ("REJECTED", {})
    assert (rejected.result.reason, rejected.result.inference) == ("object has 4 bytes, at most 3 are read", "none")
    assert pipeline.stage_timeout.to_seconds() == 20

    routed = InferencePipeline(
        stack,
        "Routed",
        routing=Routing.by_key(
            {"*.a": Route("small", model=model, preprocess=preprocess)},
            otherwise=Route("large", model=model, preprocess=preprocess),
        ),
    )
    assert set(InProcessPipeline.of(routed, "small").run(b"\x07").result.prediction or {}) == {"logits"}
    for wrong in (None, "medium"):
        with pytest.raises(PropError, match=rf"route must be 'small' or 'large', got {wrong!r}"):
            InProcessPipeline.of(routed, wrong)
    assert InProcessPipeline.of(DirectPipeline(stack, "Direct", model=model, preprocess=preprocess))


def test_answers_are_explained_as_the_deployed_functions_do(digits: BuiltModel) -> None:
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=DIGITS)
    preprocess = Preprocess.raw_tensor(dtype="uint8", shape=(8, 8))
    labels = Postprocess.classification(labels=DIGITS.parent / "labels.txt")
    asked = Explain.on_request(heat_map=True)
    local = InProcessPipeline.of(
        InferencePipeline(stack, "Asked", model=model, preprocess=preprocess, postprocess=labels, explain=asked)
    )
    table = np.loadtxt(DIGITS.parent / "digits.csv.gz", delimiter=",", dtype=np.uint8)[-1]
    image, label = table[:-1], str(table[-1])
    assert local.run(image.tobytes()).result.explanation is None
    assert local.run(b"short", explain=True).result.explanation is None
    said: Any = local.run(image.tobytes(), explain=True).result.explanation
    assert (said["method"], said["baseline"], said["runs"], said["label"]) == ("occlusion", "mean", 65, label)
    grid = np.array(said["grid"])
    assert grid.max() == 1
    assert grid[image.reshape(8, 8) > 8].mean() > grid[image.reshape(8, 8) == 0].mean()
    drawn = np.asarray(Image.open(unquote(urlsplit(said["heat_map"]).path)))
    assert np.allclose(drawn / 255, grid, atol=0.01)  # a cell for each pixel

    always = InProcessPipeline(model=model, preprocess=preprocess, explain=Explain.always())
    assert "grid" in (always.run(image.tobytes()).result.explanation or {})
    for parts, rule in (
        ({"model": digits, "preprocess": preprocess}, "model must be a ModelArtifact with explain, got BuiltModel"),
        ({"model": model, "preprocess": ones}, "preprocess must be a Preprocess with explain, got <function ones"),
    ):
        with pytest.raises(PropError, match=rule):
            InProcessPipeline(**parts, explain=Explain.always())


PROBABILITIES = """
<ir_version: 10, opset_import: ["": 18]>
classifier (float[batch, 2] numbers) => (float[batch, 2] scores) { scores = Softmax <axis = -1> (numbers) }
"""


def test_probabilities_of_a_model_are_the_scores_of_its_classes(digits: BuiltModel, tmp_path: Path) -> None:
    onnx.save(parse_model(PROBABILITIES), tmp_path / "model.onnx")
    numbers, scores = (TensorSpec(name, "float32", ("batch", 2)) for name in ("numbers", "scores"))
    seen = {"scores": Distribution(0.5, 0.4, (0.01, 0.99), {})}
    model = LocalModel(replace(digits.manifest, inputs=(numbers,), outputs=(scores,), distributions=seen), tmp_path)
    stage = Postprocess.classification(labels=["no", "yes"])
    run = InProcessPipeline(model=model, preprocess=Preprocess.json(fields=["a", "b"]), postprocess=stage).run(
        b'{"a": 0, "b": 1.3862944}'
    )
    assert run.result.prediction is not None
    assert run.result.prediction["score"] == pytest.approx(0.8)
    assert run_postprocess(stage, run.outputs, model=model).prediction == run.result.prediction


DETECTOR = """
<ir_version: 10, opset_import: ["": 18]>
detector (uint8[batch, 32, 32, 3] pixels) => (float[batch, 6, 8] found)
<int64[3] axes = {1, 2, 3}, int64[1] last = {3}, float nothing = {0},
 float[1, 6, 1] box = {16, 16, 8, 4, 0.1, 0.9}, int64[3] places = {1, 6, 8}> {
  numbers = Cast <to = 1> (pixels)
  mean = ReduceMean <keepdims = 1> (numbers, axes)
  place = Squeeze (mean, last)
  zero = Mul (place, nothing)
  boxes = Expand (box, places)
  found = Add (zero, boxes)
}
"""


def test_boxes_of_a_detector_are_in_pixels_of_the_picture(digits: BuiltModel, tmp_path: Path) -> None:
    onnx.save(parse_model(DETECTOR), tmp_path / "model.onnx")
    pixels, found = TensorSpec("pixels", "uint8", ("batch", 32, 32, 3)), TensorSpec("found", "float32", ("batch", 6, 8))
    detector = LocalModel(replace(digits.manifest, inputs=(pixels,), outputs=(found,)), tmp_path)
    picture = io.BytesIO()
    Image.new("RGB", (320, 160)).save(picture, "PNG")
    after = Postprocess.detection(labels=["cat", "dog"])
    pipeline = InProcessPipeline(
        model=detector, preprocess=Preprocess.image(size=32, resize="stretch"), postprocess=after
    )
    result = pipeline.run(picture.getvalue(), key="wide.png").result
    assert result.prediction is not None
    (box,) = result.prediction["detections"]
    assert box["label"] == "dog"
    assert box["box"] == pytest.approx([120, 70, 200, 90])
    assert result.kept is not None
    with pytest.raises(PropError, match="keep must name 'picture', which postprocess needs, got "):
        InProcessPipeline(model=detector, preprocess=ones, postprocess=after)


def test_a_mask_is_a_file_of_this_machine(digits: BuiltModel) -> None:
    spec = TensorSpec("classes", "int64", ("batch", 2, 2))
    model = LocalModel(replace(digits.manifest, outputs=(spec,)), digits.path)
    picture = {"width": 4, "height": 2, "input": [2, 2], "region": [0, 0, 4, 2]}
    stage = Postprocess.segmentation(labels=["ground", "road"])
    row = run_postprocess(stage, {"classes": np.array([[0, 1], [1, 1]])}, model=model, kept={"picture": picture})
    assert row.prediction is not None
    address = urlsplit(row.prediction["mask"])
    assert address.scheme == "file"
    mask = np.asarray(Image.open(unquote(address.path)))
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
