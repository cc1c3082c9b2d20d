"""A small U-Net that says for each pixel what it shows, judged by how its masks overlap with the right ones."""

from cdk_inference.model import Evaluation, MaskHead, ModelRecipe, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="segmentation",
    source=TorchModule(factory="network.py:build", weights="weights.safetensors"),
    inputs=(TensorSpec("pictures", "uint8", ("batch", 48, 48, 3)),),
    outputs=(TensorSpec("scores", "float32", ("batch", 3, 48, 48)),),
    calibration="data.py:calibration",
    evaluation=Evaluation(data="data.py:evaluation", metric="mean_iou", head=MaskHead(), max_drop=0.01, floor=0.8),
    provenance=Provenance(license="Apache-2.0", origin="trained by train.py"),
)
