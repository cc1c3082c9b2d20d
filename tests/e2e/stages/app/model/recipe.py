from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name="sums",
    factory="factory.py:build",
    inputs=(TensorSpec("numbers", "float32", ("batch", 4)),),
    outputs=(TensorSpec("sums", "float32", ("batch", 2)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
