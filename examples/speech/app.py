"""Recordings that land in a bucket get a row that tells between which seconds someone speaks."""

from pathlib import Path

from aws_cdk import App, CfnOutput, Stack

from cdk_inference import DirectPipeline, ModelArtifact, Postprocess, Preprocess

app = App()
stack = Stack(app, "Speech", description="Finds speech in recordings with silero-vad (cdk-inference)")
pipeline = DirectPipeline(
    stack,
    "Recordings",
    model=ModelArtifact(stack, "Model", recipe=Path(__file__).with_name("recipe.py")),
    preprocess=Preprocess.audio(sample_rate=16_000, max_seconds=600, formats=["wav", "flac", "ogg"]),
    postprocess=Postprocess.segments(window_seconds=512 / 16_000),
)
CfnOutput(stack, "InboxBucket", value=pipeline.trigger.bucket.bucket_name, description="Put recordings here")
CfnOutput(stack, "ResultsTable", value=pipeline.results.table.table_name, description="Find their segments here")
app.synth()
