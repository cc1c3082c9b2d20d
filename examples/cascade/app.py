"""A small model on the CPU labels photographs; where it is unsure, a larger one on a GPU does."""

from pathlib import Path

from aws_cdk import App, CfnOutput, Stack

from cdk_inference import Inference, InferencePipeline, ModelArtifact, Postprocess, Preprocess, Route, Routing
from cdk_inference.model import Float16

MODELS = Path(__file__).parents[2] / "model_assets" / "efficientnet_lite"

app = App()
stack = Stack(app, "PhotoCascade", description="Labels photographs with EfficientNet-Lite0, then Lite2 (cdk-inference)")
small = Route(
    "lite0",
    model=ModelArtifact(stack, "Lite0", recipe=MODELS / "lite0.py"),
    preprocess=Preprocess.image(size=224),
)
large = Route(
    "lite2",
    model=ModelArtifact(stack, "Lite2", recipe=MODELS / "lite2.py", precision=Float16()),
    preprocess=Preprocess.image(size=260),
    inference=Inference.gpu(),
)
pipeline = InferencePipeline(
    stack,
    "Photos",
    # So sure that both together agree with the large one on 95 % of the evaluation; the synth finds how sure that is.
    routing=Routing.cascade(first=small, then=large, agreement=0.95),
    postprocess=Postprocess.classification(labels=MODELS / "labels.txt"),
)
CfnOutput(stack, "InboxBucket", value=pipeline.trigger.bucket.bucket_name, description="Put photographs here")
CfnOutput(stack, "ResultsTable", value=pipeline.results.table.table_name, description="Find their labels here")
app.synth()
