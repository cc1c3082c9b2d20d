"""One pipeline that asks every strategy, by the first part of the key, and has two small models to choose from.

A device runs the small one, and sends what it is unsure of to the large one.
"""

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_iam as iam

from cdk_inference import EdgeInput, InferencePipeline, ModelArtifact, Preprocess, Route, Routing

HERE = Path(__file__).parent

app = cdk.App()
stack = cdk.Stack(app, "Strategies")
preprocess = Preprocess.json(fields=["a", "b", "c", "d"])
small, large = (
    Route(name, model=ModelArtifact(stack, name, recipe=HERE / "models" / f"{name}.py"), preprocess=preprocess)
    for name in ("small", "large")
)
pipeline = InferencePipeline(
    stack,
    "Numbers",
    routing=Routing.by_key(
        {
            "tag/*": Routing.by_tag("tier", {"gold": large}, otherwise=small),
            "metadata/*": Routing.by_metadata("quality", {"high": large}, otherwise=small),
            "model/*": Routing.by_model([small, large], otherwise=small),
            "size/*": Routing.by_size(limit=100, below=small, otherwise=large),
            "split/*": Routing.split({"control": (1, small), "candidate": (1, large)}),
            "function/*": Routing.by_function(HERE / "decide.py:decide", {"few": small, "many": large}),
            "edge/*": large,
            "cascade/*": Routing.cascade(first=small, then=large, threshold=0.8),
        },
        otherwise=small,
    ),
    max_receive_count=1,
    stage_timeout=cdk.Duration.seconds(5),
    workflow_timeout=cdk.Duration.minutes(2),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
pipeline.add_dashboard()
edge = pipeline.add_edge(route=small, inputs=[EdgeInput.folder("/in")], threshold=0.8)
devices = iam.Role(stack, "Devices", assumed_by=iam.AccountRootPrincipal())
edge.grant_device(devices, device="camera-1")
app.synth()
