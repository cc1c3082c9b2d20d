"""Stages for what is where in a picture: what they tell the runtime, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from aws_cdk import aws_iam as iam
from tests.constructs.conftest import resources

from cdk_inference import Execution, Postprocess, Preprocess, PropError, WorkBucket
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import DetrHead, EndToEndHead, MaskHead, NmsHead, TensorSpec, YoloHead
from cdk_inference.stages.preprocess import reading_environment

LABELS = ["cat", "dog", "emu"]
IMAGE = (TensorSpec("image", "uint8", ("batch", 64, 64, 3)),)


def output(*shape: int | str, name: str = "output0", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, ("batch", *shape))


def bound(head, *outputs: TensorSpec):
    return Postprocess.detection(labels=LABELS, head=head).bind(outputs).options


@pytest.mark.parametrize(
    ("head", "outputs", "told"),
    [
        (None, [output(7, 8400)], {"kind": "yolo", "output": "output0", "channels": 0, "objectness": False}),
        (YoloHead(objectness=True), [output(25200, 8)], {"channels": 1, "objectness": True}),
        (YoloHead(iou=0.7), [output(7, "places")], {"channels": 0, "iou": 0.7}),
        (None, [output(7, 5)], {"channels": 0}),
        (None, [output(5, 7)], {"channels": 1}),
        (EndToEndHead(output="y"), [output(3), output("found", 6, name="y")], {"kind": "end_to_end", "output": "y"}),
        (
            NmsHead(first_class=1),
            [output(9, 4, name="boxes"), output(9, name="scores"), output(9, name="labels", dtype="int64")],
            {"kind": "nms", "boxes": "boxes", "scores": "scores", "classes": "labels", "first_class": 1},
        ),
        (
            DetrHead(),
            [output(100, 4, name="logits"), output(100, 4, name="pred_boxes")],
            {"kind": "detr", "activation": "softmax"},
        ),
    ],
)
def test_a_detector_stage_tells_the_runtime_where_the_boxes_are(head, outputs, told):
    options = bound(head, *outputs)
    assert options["head"].items() >= told.items()
    assert options["normalized"] is isinstance(head, DetrHead)
    assert (options["labels"], options["min_score"], options["max_detections"]) == (LABELS, 0.25, 100)


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        (None, [output(84, 8400)], "labels must have one name for each of the 80 classes .*, got 3"),
        (YoloHead(objectness=True), [output(7, 8400)], "each of the 2 classes"),
        (YoloHead(output="y"), [output(7, 8400)], r"head.output must be one of the model's outputs, output0, got 'y'"),
        (None, [output(7, 8400), output(3, name="y")], "head.output must be one of .*, got None; name the right one"),
        (None, [output("a", "b")], r"must be floats \(batch, 4 \+ classes, places\) .*, got float32 \(batch, a, b\)"),
        (None, [output(4, 9)], "must be at least 5 numbers for each place, got"),
        (EndToEndHead(), [output(100, 7)], r"'output0' must be \(batch, boxes, 6\), got float32 \(batch, 100, 7\)"),
        (NmsHead(boxes="output0"), [output(9, 5)], r"must be \(batch, boxes, 4\)"),
        (
            NmsHead(classes="scores"),
            [output(9, 4, name="boxes"), output(9, 1, name="scores")],
            r"'scores' must be \(batch, boxes\)",
        ),
        (DetrHead(), [output(9, 1, name="logits"), output(9, 4, name="pred_boxes")], "more than 1 classes"),
        (DetrHead(boxes="logits"), [output(9, 3, name="logits")], r"must be \(batch, queries, 4\)"),
    ],
)
def test_a_head_that_does_not_fit_the_model_fails(head, outputs, message):
    with pytest.raises(PropError, match=message):
        bound(head, *outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels must hold the name of every class, got none"),
        ({"min_score": 0}, "min_score must be above 0 and at most 1, got 0"),
        ({"max_detections": 1001}, "max_detections must be 1 to 1,000, got 1001"),
        ({"head": "yolo"}, "head must be"),
    ],
)
def test_wrong_detection_options_fail(options, message):
    with pytest.raises(PropError, match=message):
        Postprocess.detection(**{"labels": LABELS, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: YoloHead(iou=0), "'head.iou' must be above 0 and at most 1, got 0"),
        (lambda: NmsHead(corners="xywh"), "'head.corners' must be 'xyxy' or 'yxyx', got 'xywh'"),
        (lambda: NmsHead(first_class=-1), "'head.first_class' must be a whole number from 0, got -1"),
        (lambda: DetrHead(activation="none"), "'head.activation' must be 'softmax' or 'sigmoid', got 'none'"),
    ],
)
def test_wrong_heads_fail(make, message):
    with pytest.raises(ModelBuildError, match=message):
        make()


def test_an_image_stage_says_where_the_pixels_are_if_somebody_asks(model):
    needs = Postprocess.detection(labels=LABELS).needs
    plain = Preprocess.image(size=64)
    stage = plain.keeping(needs)
    assert stage.keeping(needs) is stage
    assert stage.bind(IMAGE).options == {**plain.bind(IMAGE).options, "locate": "image"}
    assert reading_environment(stage, model, None)["KEEP"] == '["picture"]'
    assert "KEEP" not in reading_environment(plain, model, None)
    assert plain.keeping(Postprocess.outputs().needs) is plain


def test_a_stage_that_does_not_know_where_its_pixels_are_fails(tmp_path):
    file = tmp_path / "stage.py"
    file.write_text("def run(data, item):\n    return data\n")
    needs = Postprocess.detection(labels=LABELS).needs
    assert Preprocess.function(f"{file}:run", keep=["picture"]).keeping(needs).keep == ("picture",)
    for stage in (Preprocess.function(f"{file}:run", keep=["size"]), Preprocess.tensor()):
        with pytest.raises(PropError, match=r"preprocess must keep 'picture', which postprocess needs, got .*; use"):
            stage.keeping(needs)


def test_a_mask_stage_tells_the_runtime_where_the_classes_are():
    for head, spec, axis in (
        (None, output(3, "height", "width"), 0),
        (MaskHead(channels="last"), output(8, 8, 3), 2),
        (None, output(8, 8, dtype="uint8"), None),
        (MaskHead(output="output0"), output(3, 8, 8), 0),
    ):
        options = Postprocess.segmentation(labels=LABELS, head=head).bind([spec]).options
        assert options == {"labels": LABELS, "output": "output0", "axis": axis, "size": "picture"}
    for channels, spec, axis in (
        ("first", output(1, "height", 8), 0),
        ("last", output(8, 8, 1), 2),
        ("first", output(8, 8), None),
    ):
        head = MaskHead(channels=channels, threshold=0.5)
        options = Postprocess.segmentation(labels=["ground", "road"], head=head).bind([spec]).options
        assert (options["axis"], options["threshold"]) == (axis, 0.5)


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        ({}, output(4, 8, 8), "one name for each of the 4 classes of the model's outputs, in order, got 3"),
        ({}, output(8), r"floats \(batch, classes, height, width\) .*, got float32 \(batch, 8\)"),
        ({}, output(8, 8), r"scores of each class, unless the MaskHead has a threshold \(0\.5, or 0 for logits\), got"),
        ({"head": MaskHead(channels="last")}, output(8, 8, 1), "unless the MaskHead has a threshold"),
        ({"head": MaskHead(threshold=0.0)}, output(3, 8, 8), "one score for each pixel for a MaskHead with a thr"),
        ({"head": MaskHead(threshold=0.0)}, output(1, 8, 8), "each of the 2 classes of the model's outputs, in order"),
        ({"labels": ["x"] * 256}, output(256, 8, 8), "labels must be at most 255 for a mask, got 256"),
        ({"size": "half"}, output(3, 8, 8), "size must be 'picture' or 'model', got 'half'"),
    ],
)
def test_a_mask_stage_that_does_not_fit_the_model_fails(options, spec, message):
    with pytest.raises(PropError, match=message):
        Postprocess.segmentation(**{"labels": LABELS, **options}).bind([spec])


def written(stack, function):
    """Return what the role of a function may do with masks, and what all other roles may."""
    role = stack.resolve(function.role.role_name)
    found: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for policy in resources(stack, "AWS::IAM::Policy").values():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if "masks" in json.dumps(statement["Resource"]):
                found[role in policy["Properties"]["Roles"]].append((statement["Action"], statement["Effect"]))
    return found[True], found[False]


@pytest.mark.parametrize("fused", [False, True], ids=["staged", "fused"])
def test_only_a_stage_that_makes_masks_may_write_them(stack, pipeline, fused):
    # The model of these tests has no pixels.
    masks = replace(Postprocess.segmentation(labels=LABELS), head=None, classes=None)
    stages = pipeline(postprocess=masks, execution=Execution.fused() if fused else Execution.staged()).stages
    work = stages.score.work if fused else stages.work
    assert written(stack, stages.output_stage) == ([("s3:PutObject", "Allow")], [])
    (variables,) = (
        function["Properties"]["Environment"]["Variables"]
        for function in resources(stack, "AWS::Lambda::Function").values()
        if "segmentation" in json.dumps(function["Properties"]["Environment"])
    )
    assert variables["MASKS_ADDRESS"] == stack.resolve(work.masks_address)
    assert stack.resolve(work.bucket.bucket_name) in variables["MASKS_ADDRESS"]["Fn::Join"][1]


def test_other_stages_may_not_write_masks(stack, pipeline):
    assert written(stack, pipeline().stages.output_stage) == ([], [])


def test_a_work_bucket_for_masks_may_be_shared(stack, pipeline):
    work = WorkBucket(stack, "Shared")
    reader = iam.User(stack, "Reader")
    work.grant_read_masks(reader)
    masks = replace(Postprocess.segmentation(labels=LABELS), head=None, classes=None)
    stages = pipeline(postprocess=masks, execution=Execution.fused(work=work)).stages
    assert stages.score.work is work
    assert len(resources(stack, "AWS::S3::Bucket")) == 2
    (policy,) = (
        policy["Properties"]["PolicyDocument"]["Statement"]
        for policy in resources(stack, "AWS::IAM::Policy").values()
        if "Users" in policy["Properties"]
    )
    assert [(each["Action"], "masks/*" in json.dumps(each["Resource"])) for each in policy] == [("s3:GetObject", True)]
