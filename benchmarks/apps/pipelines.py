"""As many pipelines as ``PIPELINES`` says, ``PER_STACK`` in each stack, all with the model of ``RECIPE``."""

from __future__ import annotations

import os

import aws_cdk as cdk

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

app = cdk.App()
model = ModelArtifact(cdk.Stack(app, "Shared"), "Model", recipe=os.environ["RECIPE"])
for number in range(int(os.environ["PIPELINES"])):
    if number % int(os.environ["PER_STACK"]) == 0:
        stack = cdk.Stack(app, f"Pipelines{number}")
    InferencePipeline(stack, f"Pipeline{number}", model=model, preprocess=Preprocess.tensor())
app.synth()
