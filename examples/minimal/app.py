"""Photographs that land in a bucket get their ImageNet labels in a table."""

from aws_cdk import App, Stack

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

app = App()
stack = Stack(app, "Photos")
model = ModelArtifact(stack, "Model", recipe="model_assets/efficientnet_lite/lite0.py")
labels = Postprocess.classification(labels="model_assets/efficientnet_lite/labels.txt")
InferencePipeline(stack, "Labels", model=model, preprocess=Preprocess.image(size=224), postprocess=labels)
app.synth()
