from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="large",
    source=TorchModule("factory.py:large"),
    precision=Float32(),
    inputs=(TensorSpec("numbers", "float32", ("batch", 4)),),
    outputs=(TensorSpec("sums", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
