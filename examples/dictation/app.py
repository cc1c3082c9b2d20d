"""Recordings that land in a bucket get a row with what is said in them."""

from pathlib import Path

from aws_cdk import App, CfnOutput, Stack

from cdk_inference import DirectPipeline, ModelArtifact, Postprocess, Preprocess

HERE = Path(__file__).parent

app = App()
stack = Stack(app, "Dictation", description="Writes down what is said in recordings (cdk-inference)")
pipeline = DirectPipeline(
    stack,
    "Recordings",
    model=ModelArtifact(stack, "Model", recipe=HERE / "recipe.py"),
    preprocess=Preprocess.audio(sample_rate=16_000, max_seconds=30, formats=["wav", "flac", "ogg"]),
    postprocess=Postprocess.text(tokenizer=HERE / "tokenizer.json"),
)
CfnOutput(stack, "InboxBucket", value=pipeline.trigger.bucket.bucket_name, description="Put recordings here")
CfnOutput(stack, "ResultsTable", value=pipeline.results.table.table_name, description="Find their texts here")
app.synth()
