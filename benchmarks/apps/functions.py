"""An inference function for each recipe in ``RECIPES``, with all defaults: the stacks are named by number."""

from __future__ import annotations

import os

import aws_cdk as cdk

from cdk_inference import CpuInference, ModelArtifact, WorkBucket

app = cdk.App()
for number, recipe in enumerate(os.environ["RECIPES"].split(os.pathsep)):
    stack = cdk.Stack(app, f"Function{number}")
    model = ModelArtifact(stack, "Model", recipe=recipe)
    CpuInference(stack, "Inference", model=model, work=WorkBucket(stack, "Work"))
app.synth()
