from cdk_inference.model import Evaluation, Float32, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="records",
    source=OnnxFile("model.onnx"),
    precision=Float32(),
    inputs=(
        TensorSpec("age", "float32", ("batch", 1), nan=True),
        TensorSpec("town", "string", ("batch", 1)),
        TensorSpec("size", "int64", ("batch", 1)),
    ),
    outputs=(TensorSpec("score", "float32", ("batch", 1)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="mean_absolute_error"),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
