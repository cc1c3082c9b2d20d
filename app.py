"""The reference app: photographs land in a bucket, and their ImageNet labels in a table."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess, hide_tracebacks

hide_tracebacks()
HERE = Path(__file__).parent
MODEL = HERE / "model_assets" / "efficientnet_lite"

app = cdk.App()
stack = cdk.Stack(app, "PhotoLabels", description="Labels photographs with EfficientNet-Lite0 (cdk-inference)")

model = ModelArtifact(stack, "Model", recipe=MODEL / "lite0.py")
pipeline = InferencePipeline(
    stack,
    "Photos",
    model=model,
    preprocess=Preprocess.image(size=224),
    postprocess=Postprocess.classification(labels=MODEL / "labels.txt"),
)

cdk.CfnOutput(stack, "InboxBucket", value=pipeline.trigger.bucket.bucket_name, description="Put photographs here")
cdk.CfnOutput(stack, "ResultsTable", value=pipeline.results.table.table_name, description="Find their labels here")

app.synth()
