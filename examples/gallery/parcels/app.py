"""Says of each parcel that lands in a bucket, as an object of JSON, whether it will be late."""

import math
from pathlib import Path

from aws_cdk import App, Stack

from cdk_inference import Column, InferencePipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent
CARRIERS = ["hermit", "swift", "turtle", "zebra"]

app = App()
stack = Stack(app, "Parcels")
InferencePipeline(
    stack,
    "Pipeline",
    model=ModelArtifact(stack, "Model", recipe=HERE / "boosting.py"),
    preprocess=Preprocess.json(
        fields=[
            "distance_km",
            Column.number("weight_kg", missing=math.nan),
            "weekday",
            Column.category("carrier", CARRIERS),
        ]
    ),
    postprocess=Postprocess.classification(labels=["in time", "late"], output="probabilities"),
)
app.synth()
