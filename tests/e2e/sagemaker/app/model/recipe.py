from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule

# Tensors of this size do not fit the state of a workflow, so that they travel through the work bucket.
RECIPE = ModelRecipe(
    name="pairs",
    source=TorchModule("factory.py:build"),
    precision=Float32(),
    inputs=(TensorSpec("numbers", "float32", ("batch", 64, 128)),),
    outputs=(TensorSpec("sums", "float32", ("batch", 4096)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
