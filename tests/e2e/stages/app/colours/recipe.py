from cdk_inference.model import Evaluation, Float32, ModelRecipe, Provenance, TensorSpec, TorchModule, YoloHead

RECIPE = ModelRecipe(
    name="colours",
    source=TorchModule("factory.py:build"),
    precision=Float32(),
    inputs=(TensorSpec("image", "uint8", ("batch", 32, 32, 3)),),
    outputs=(TensorSpec("boxes", "float32", ("batch", 6, 16)), TensorSpec("areas", "float32", ("batch", 3, 4, 4))),
    evaluation=Evaluation(data="data.py:evaluation", metric="box_f1", head=YoloHead(output="boxes")),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
