"""A random forest of scikit-learn, converted by train_forest.py: categories, missing numbers and trees in one graph."""

from cdk_inference.model import Evaluation, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="parcels-forest",
    source=OnnxFile("forest.onnx"),
    inputs=(TensorSpec("parcels", "float32", ("batch", 4), nan=True),),
    outputs=(TensorSpec("probabilities", "float32", ("batch", 2)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="top1", floor=0.85),
    provenance=Provenance(license="Apache-2.0", origin="trained by train_forest.py"),
)
