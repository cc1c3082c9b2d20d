"""Labels each picture that lands in a bucket."""

from aws_cdk import App, CfnOutput, Stack

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess, hide_tracebacks

hide_tracebacks()
app = App()
stack = Stack(app, "Shapes")
pipeline = InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe="recipe.py"),
    preprocess=Preprocess.image(size=32, crop=1.0),
    postprocess=Postprocess.classification(labels=["circle", "square", "triangle"]),
)
CfnOutput(stack, "Inbox", value=pipeline.trigger.bucket.bucket_name)
app.synth()
