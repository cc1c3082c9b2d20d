"""Cameras label photographs themselves with a small model; where one is unsure, a larger one in the cloud does."""

from pathlib import Path

from aws_cdk import App, Stack
from aws_cdk import aws_iam as iam

from cdk_inference import (
    EdgeInput,
    EdgeTraffic,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Postprocess,
    Preprocess,
    Route,
)
from cdk_inference.model import Float16

MODELS = Path(__file__).parents[2] / "model_assets" / "efficientnet_lite"

app = App()
stack = Stack(app, "Cameras", description="Labels photographs on devices, and in the cloud where they are unsure")
pipeline = InferencePipeline(
    stack,
    "Photos",
    model=ModelArtifact(stack, "Lite2", recipe=MODELS / "lite2.py", precision=Float16()),
    preprocess=Preprocess.image(size=260),
    postprocess=Postprocess.classification(labels=MODELS / "labels.txt"),
    inference=Inference.gpu(),
)
cameras = pipeline.add_edge(
    route=Route(
        "camera",
        model=ModelArtifact(stack, "Lite0", recipe=MODELS / "lite0.py"),
        preprocess=Preprocess.image(size=224),
    ),
    inputs=[EdgeInput.folder("/var/lib/camera")],
    # Both together agree with the large model on 95 % of the evaluation; the synth finds how sure a camera must be.
    agreement=0.95,
    traffic=EdgeTraffic(devices=100, items_per_day=5_000, item_bytes=200_000),
)

# Devices get the rights of the role that their alias names; see the guide.
role = iam.Role(stack, "CameraRole", assumed_by=iam.ServicePrincipal("credentials.iot.amazonaws.com"))
cameras.grant_device(role)

# cdk deploy -c cameras=arn:aws:iot:eu-west-1:123456789012:thinggroup/cameras
group = app.node.try_get_context("cameras")
if group:
    cameras.add_deployment("Cameras", target_arn=group)
app.synth()
