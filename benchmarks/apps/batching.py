"""The reference pipeline twice: with batches, and with one photograph at a time."""

from __future__ import annotations

import os

import aws_cdk as cdk

from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess

app = cdk.App()
stack = cdk.Stack(app, "Batching")
model = ModelArtifact(stack, "Model", recipe=os.environ["RECIPE"])
for name, size in (("Batched", 32), ("Single", 1)):
    InferencePipeline(
        stack,
        name,
        model=model,
        preprocess=Preprocess.image(size=224),
        postprocess=Postprocess.classification(labels=os.environ["LABELS"]),
        batch_size=size,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
app.synth()
