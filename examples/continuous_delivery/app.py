"""A service whose model was built before, and comes from a registry: its synth needs neither PyTorch nor a recipe."""

import json
import os
from pathlib import Path

from aws_cdk import App, Stack, Stage
from constructs import Construct

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

REGISTRY = os.environ["CDK_INFERENCE_REGISTRY"]
MODEL = Path(os.environ.get("MODEL_FILE", "model.json"))
"""The file that `push --json` wrote: it has name and version of the model to deploy."""


class Service(Stage):
    """The stacks of one environment."""

    def __init__(self, scope: Construct, id: str) -> None:
        super().__init__(scope, id)
        pushed = json.loads(MODEL.read_text())
        stack = Stack(self, "Digits")
        model = ModelArtifact.from_registry(
            stack, "Model", registry=REGISTRY, name=pushed["name"], version=pushed["version"]
        )
        InferencePipeline(stack, "Pipeline", model=model, preprocess=Preprocess.tensor())


if __name__ == "__main__":
    app = App()
    Service(app, "Production")
    app.synth()
