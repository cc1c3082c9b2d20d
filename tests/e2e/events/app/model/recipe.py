from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="records",
    source=TorchModule("factory.py:build"),
    precision=Float32(),
    inputs=(TensorSpec("numbers", "float32", ("batch", 4)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 3)),),
    evaluation=Evaluation(data="data.py:evaluation"),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
