"""A YOLO that finds faces and parts of bodies: an ONNX file that a package of PyPI carries."""

from cdk_inference.model import Evaluation, ModelRecipe, OnnxFile, PackageFile, Provenance, TensorSpec, YoloHead

RECIPE = ModelRecipe(
    name="detection",
    source=OnnxFile(PackageFile("nudenet", "nudenet/320n.onnx")),
    inputs=(TensorSpec("images", "float32", ("batch", 3, 320, 320)),),
    outputs=(TensorSpec("output0", "float32", ("batch", 22, 2100)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(
        data="data.py:evaluation", metric="box_f1", head=YoloHead(), min_confidence=0.25, max_drop=0.15
    ),
    provenance=Provenance(license="AGPL-3.0", origin="https://pypi.org/project/nudenet/"),
)
