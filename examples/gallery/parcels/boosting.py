"""Trees of LightGBM, converted by train_boosting.py: they know categories and missing numbers themselves."""

from cdk_inference.model import Evaluation, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="parcels-boosting",
    source=OnnxFile("boosting.onnx"),
    inputs=(TensorSpec("parcels", "float32", ("batch", 4), nan=True),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 2)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="top1", floor=0.85),
    provenance=Provenance(license="Apache-2.0", origin="trained by train_boosting.py"),
)
